package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"sigs.k8s.io/yaml"
)

// tokens is a static token file, as kube-apiserver's --token-auth-file has it, read for every request, so that a token can
// be taken back while the server runs.
type tokens struct {
	path string
	// The one that may do everything.
	admin string
}

func (t tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if token == t.admin {
		admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
		return &authenticator.Response{User: admin}, true, nil
	}
	if t.path == "" {
		return nil, false, nil
	}
	file, err := tokenfile.NewCSV(t.path)
	if err != nil {
		return nil, false, err
	}
	return file.AuthenticateToken(ctx, token)
}

func authentication(admin, path string) authenticator.Request {
	return group.NewAuthenticatedGroupAdder(bearertoken.New(tokens{path: path, admin: admin}))
}

// authorization allows the privileged group everything and everybody else what the manifest at path says, by the rules
// of Kubernetes' RBAC (kube-apiserver keeps its evaluation of them in the module k8s.io/kubernetes, which is not one to import).
func authorization(path string) authorizer.Authorizer {
	privileged := authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)
	return union.New(privileged, roles{path: path})
}

type roles struct{ path string }

type grant struct {
	subjects []rbac.Subject
	rules    []rbac.PolicyRule
	// Empty for the whole cluster.
	namespace string
}

func (r roles) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !a.IsResourceRequest() {
		// The role system:discovery, which everybody has who is somebody.
		if a.GetVerb() == "get" && slices.Contains(a.GetUser().GetGroups(), user.AllAuthenticated) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}
	grants, err := r.read()
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	for _, grant := range grants {
		inside := grant.namespace == "" || grant.namespace == a.GetNamespace()
		if inside && slices.ContainsFunc(grant.subjects, func(s rbac.Subject) bool { return is(s, a.GetUser()) }) &&
			slices.ContainsFunc(grant.rules, func(rule rbac.PolicyRule) bool { return covers(rule, a) }) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "no role allows it", nil
}

func is(subject rbac.Subject, who user.Info) bool {
	switch subject.Kind {
	case rbac.ServiceAccountKind:
		return who.GetName() == "system:serviceaccount:"+subject.Namespace+":"+subject.Name
	case rbac.GroupKind:
		return slices.Contains(who.GetGroups(), subject.Name)
	default:
		return who.GetName() == subject.Name
	}
}

func covers(rule rbac.PolicyRule, a authorizer.Attributes) bool {
	// What core.go has renamed is allowed under its own name.
	apiGroup, resource := a.GetAPIGroup(), a.GetResource()
	if apiGroup == coreGroup {
		apiGroup = ""
	}
	if resource == "nses" {
		resource = "namespaces"
	}
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	any := func(list []string, all, wanted string) bool {
		return slices.Contains(list, all) || slices.Contains(list, wanted)
	}
	return any(rule.Verbs, rbac.VerbAll, a.GetVerb()) && any(rule.APIGroups, rbac.APIGroupAll, apiGroup) &&
		any(rule.Resources, rbac.ResourceAll, resource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

// read gives the manifest's bindings, each with the rules of its role.
func (r roles) read() ([]grant, error) {
	text, err := os.ReadFile(r.path)
	if err != nil {
		return nil, err
	}
	rules := map[string][]rbac.PolicyRule{}
	var bindings []rbac.RoleBinding
	for _, document := range strings.Split(string(text), "\n---\n") {
		// A RoleBinding has every field of a ClusterRoleBinding, and a Role those of a ClusterRole but one.
		var role rbac.Role
		var binding rbac.RoleBinding
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			return nil, fmt.Errorf("%s: %w", r.path, err)
		}
		switch role.Kind {
		case "Role", "ClusterRole":
			rules[role.Kind+" "+role.Namespace+"/"+role.Name] = role.Rules
		case "RoleBinding", "ClusterRoleBinding":
			if err := yaml.UnmarshalStrict([]byte(document), &binding); err != nil {
				return nil, fmt.Errorf("%s: %w", r.path, err)
			}
			bindings = append(bindings, binding)
		default:
			return nil, fmt.Errorf("%s: %q is no kind of RBAC", r.path, role.Kind)
		}
	}
	var grants []grant
	for _, binding := range bindings {
		namespace := binding.Namespace
		if binding.RoleRef.Kind == "ClusterRole" {
			namespace = ""
		}
		grants = append(grants, grant{
			subjects:  binding.Subjects,
			rules:     rules[binding.RoleRef.Kind+" "+namespace+"/"+binding.RoleRef.Name],
			namespace: binding.Namespace,
		})
	}
	return grants, nil
}
