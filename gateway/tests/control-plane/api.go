package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// newAPI is the HTTP side that tests drive; README.md has the table.
func newAPI(resources *resources, journal *journal, gate *gate, connections *connections, end func()) http.Handler {
	mux := http.NewServeMux()
	apply := func(replace bool) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			var body change
			decoder := json.NewDecoder(r.Body)
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&body); err != nil {
				return nil, err
			}
			version, err := resources.apply(body, replace)
			return map[string]string{"version": version}, err
		}
	}
	handle := func(pattern string, answer func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			result, err := answer(r)
			w.Header().Set("content-type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				result = map[string]string{"error": err.Error()}
			}
			_ = json.NewEncoder(w).Encode(result)
		})
	}
	handle("PUT /snapshot", apply(true))
	handle("POST /mutate", apply(false))
	handle("POST /generate", func(r *http.Request) (any, error) {
		version, err := resources.apply(generate(number(r, "clusters", 100), number(r, "endpoints", 3), number(r, "port", 15443)), true)
		return map[string]string{"version": version}, err
	})
	handle("GET /requests", func(r *http.Request) (any, error) { return read(r, journal, &journal.requests) })
	handle("GET /responses", func(r *http.Request) (any, error) { return read(r, journal, &journal.responses) })
	handle("DELETE /requests", func(*http.Request) (any, error) { journal.clear(); return struct{}{}, nil })
	handle("GET /streams", func(*http.Request) (any, error) {
		open, refused := gate.counts()
		return map[string]int{"open": open, "refused": refused}, nil
	})
	handle("POST /disconnect", func(r *http.Request) (any, error) {
		if r.FormValue("how") == "reset" {
			return map[string]int{"connections": connections.reset()}, nil
		}
		code, err := parseCode(r.FormValue("code"), codes.Unavailable)
		if err != nil {
			return nil, err
		}
		return map[string]int{"streams": gate.disconnect(code)}, nil
	})
	handle("POST /refuse", func(r *http.Request) (any, error) {
		code, err := parseCode(r.FormValue("code"), codes.ResourceExhausted)
		if err != nil {
			return nil, err
		}
		duration, err := time.ParseDuration(r.FormValue("for"))
		if r.FormValue("for") != "" && err != nil {
			return nil, err
		}
		gate.refuse(code, duration, number(r, "count", 0))
		return struct{}{}, nil
	})
	handle("POST /quit", func(*http.Request) (any, error) { end(); return struct{}{}, nil })
	return mux
}

// read filters a journal: after=SEQ, type, kind, node, variant, stream, nonce; wait=DURATION blocks until one matches.
func read(r *http.Request, journal *journal, list *[]entry) (any, error) {
	ctx, cancel := r.Context(), func() {}
	if text := r.FormValue("wait"); text != "" {
		wait, err := time.ParseDuration(text)
		if err != nil {
			return nil, err
		}
		ctx, cancel = context.WithTimeout(ctx, wait)
	} else {
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	defer cancel()
	after, want := number(r, "after", 0), r.FormValue
	return journal.read(ctx, list, func(e entry) bool {
		fits := func(key, value string) bool { return want(key) == "" || want(key) == value }
		return e.Seq > after && (fits("type", e.Type) || e.Type == typeURLs[want("type")]) && fits("kind", e.Kind) &&
			fits("node", e.Node) && fits("variant", e.Variant) && fits("nonce", e.Nonce) && fits("version", e.Version) &&
			fits("stream", strconv.FormatInt(e.Stream, 10))
	}), nil
}

func number(r *http.Request, key string, otherwise int) int {
	if value, err := strconv.Atoi(r.FormValue(key)); err == nil {
		return value
	}
	return otherwise
}

func parseCode(name string, otherwise codes.Code) (codes.Code, error) {
	if name == "" {
		return otherwise, nil
	}
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(strconv.Quote(strings.ToUpper(name)))); err != nil {
		return 0, fmt.Errorf("%q is no gRPC status code", name)
	}
	return code, nil
}

func nameOf(message proto.Message) string {
	if wrapped, ok := message.(*discovery.Resource); ok {
		return wrapped.Name
	}
	return cachev3.GetResourceName(types.Resource(message))
}

// generate makes the set of a big mesh: clusters named as istiod names them for SNI routing, each
// with its endpoints, and one listener with a filter chain for each.
func generate(clusters, endpoints, port int) change {
	out := change{Resources: map[string][]json.RawMessage{}}
	add := func(word, format string, arguments ...any) {
		out.Resources[word] = append(out.Resources[word], json.RawMessage(fmt.Sprintf(format, arguments...)))
	}
	chains := make([]string, 0, clusters)
	for i := range clusters {
		name := fmt.Sprintf("outbound_.80_._.service-%d.mesh.svc.cluster.local", i)
		add("clusters", `{"name":%q,"type":"EDS","connect_timeout":"10s","lb_policy":"LEAST_REQUEST","eds_cluster_config":{"service_name":%q,"eds_config":{"ads":{},"resource_api_version":"V3"}}}`, name, name)
		members := make([]string, 0, endpoints)
		for j := range endpoints {
			members = append(members, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":"10.%d.%d.%d","port_value":%d}}},"load_balancing_weight":1}`, i>>8&255, i&255, j+1, 8080))
		}
		add("endpoints", `{"cluster_name":%q,"endpoints":[{"locality":{"region":"r","zone":"z"},"load_balancing_weight":%d,"lb_endpoints":[%s]}]}`, name, max(endpoints, 1), strings.Join(members, ","))
		chains = append(chains, fmt.Sprintf(`{"filter_chain_match":{"server_names":[%q],"application_protocols":["istio","istio-peer-exchange","istio-http/1.0","istio-http/1.1","istio-h2"]},"filters":[{"name":"envoy.filters.network.tcp_proxy","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":%q,"cluster":%q}}]}`, name, name, name))
	}
	add("listeners", `{"name":"0.0.0.0_%d","address":{"socket_address":{"address":"127.0.0.1","port_value":%d}},"listener_filters":[{"name":"envoy.filters.listener.tls_inspector","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}],"filter_chains":[%s]}`, port, port, strings.Join(chains, ","))
	return out
}
