package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	noopoteltrace "go.opentelemetry.io/otel/trace/noop"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	generatedopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// The definitions of everything that Eastgate watches.
//
//go:embed definitions.yaml
var definitions string

type server struct {
	etcd, certificate, key string
	listener               net.Listener
	authentication         authenticator.Request
	authorization          authorizer.Authorizer
	// As behind a load balancer, nobody but the server itself gets in before everything is served.
	ready atomic.Bool
}

func (s *server) run(ctx context.Context, serving func()) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	made, err := config.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- made.GenericAPIServer.PrepareRun().RunWithContext(ctx) }()
	if err := install(ctx, made.GenericAPIServer.LoopbackClientConfig); err != nil {
		return err
	}
	s.ready.Store(true)
	serving()
	return <-ended
}

func (s *server) config() (*apiserver.Config, error) {
	o := options.NewCustomResourceDefinitionsServerOptions(nil, nil)
	r := o.RecommendedOptions
	// There is no core API server to ask who somebody is and what they may: files say it.
	r.Authentication, r.Authorization, r.CoreAPI, r.Admission = nil, nil, nil, nil
	r.Features.EnablePriorityAndFairness = false
	r.Etcd.StorageConfig.Transport.ServerList = []string{s.etcd}
	// Compaction is the tests' business: it is what makes a resource version too old.
	r.Etcd.StorageConfig.CompactionInterval = 0
	r.SecureServing.Listener = s.listener
	r.SecureServing.BindPort = s.listener.Addr().(*net.TCPAddr).Port
	r.SecureServing.ServerCert.CertKey.CertFile = s.certificate
	r.SecureServing.ServerCert.CertKey.KeyFile = s.key
	if err := o.ServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, err
	}
	if err := o.Complete(); err != nil {
		return nil, err
	}

	generic := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	if err := o.ServerRunOptions.ApplyTo(&generic.Config); err != nil {
		return nil, err
	}
	if err := r.ApplyTo(generic); err != nil {
		return nil, err
	}
	if err := o.APIEnablement.ApplyTo(&generic.Config, apiserver.DefaultAPIResourceConfigSource(), apiserver.Scheme); err != nil {
		return nil, err
	}
	generic.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(
		openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions),
		openapinamer.NewDefinitionNamer(apiserver.Scheme, scheme.Scheme))
	generic.Authentication.Authenticator = s.authentication
	generic.Authorization.Authorizer = s.authorization
	loopback := generic.LoopbackClientConfig.BearerToken
	chain := generic.BuildHandlerChainFunc
	generic.BuildHandlerChainFunc = func(api http.Handler, config *genericapiserver.Config) http.Handler {
		return s.gate(core(chain(api, config)), loopback)
	}
	return &apiserver.Config{
		GenericConfig: generic,
		ExtraConfig: apiserver.ExtraConfig{
			CRDRESTOptionsGetter: options.NewCRDRESTOptionsGetter(*r.Etcd, generic.ResourceTransformers, generic.StorageObjectCountTracker),
			ServiceResolver:      webhook.NewDefaultServiceResolver(),
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, generic.LoopbackClientConfig, noopoteltrace.NewTracerProvider()),
		},
	}, nil
}

// gate lets nobody in but the server itself, until everything is served.
func (s *server) gate(inner http.Handler, loopback string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.ready.Load() && r.Header.Get("Authorization") != "Bearer "+loopback {
			refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: string(reason), Reason: reason, Code: int32(code),
	})
}

// install creates the definitions and waits until all of them are served.
func install(ctx context.Context, config *rest.Config) error {
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	api := client.ApiextensionsV1().CustomResourceDefinitions()
	for _, text := range strings.Split(definitions, "\n---\n") {
		var definition v1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict([]byte(text), &definition); err != nil {
			return fmt.Errorf("definitions.yaml: %w", err)
		}
		if err := created(ctx, func() error {
			_, err := api.Create(ctx, &definition, metav1.CreateOptions{})
			return err
		}); err != nil {
			return err
		}
	}
	for {
		list, err := api.List(ctx, metav1.ListOptions{})
		if err == nil && served(list.Items) {
			return nil
		}
		if !pause(ctx) {
			return fmt.Errorf("the definitions are not served: %w", ctx.Err())
		}
	}
}

// created tries until it is there; at the start the server may not answer yet.
func created(ctx context.Context, create func() error) error {
	for {
		err := create()
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		if apierrors.IsInvalid(err) || !pause(ctx) {
			return err
		}
	}
}

func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

func served(items []v1.CustomResourceDefinition) bool {
	for _, item := range items {
		established := false
		for _, condition := range item.Status.Conditions {
			established = established || condition.Type == v1.Established && condition.Status == v1.ConditionTrue
		}
		if !established {
			return false
		}
	}
	return len(items) > 0
}
