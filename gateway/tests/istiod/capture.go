package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	_ "istio.io/istio/pkg/config/xds" // links in every Envoy message that istiod may put into an Any
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// recording is one file of a dump: the message as readable JSON and as the bytes that were sent.
type recording struct {
	Node     string          `json:"node"`
	Variant  string          `json:"variant"`
	Message  string          `json:"message"`
	Response json.RawMessage `json:"response"`
	Binary   []byte          `json:"binary"` // base64 in JSON
}

// capture asks a control plane, as a router with the given identity, for CDS, EDS and LDS in both
// variants, and writes each answer into a file.
func capture() error {
	address := flag.String("address", "", "host:port of plaintext xDS (required)")
	id := flag.String("node", "router~127.0.0.9~istio-eastwestgateway-0.istio-system~istio-system.svc.cluster.local", "node ID")
	labels := flag.String("labels", "istio=eastwestgateway,app=istio-eastwestgateway,topology.istio.io/network=network1", "labels of the node")
	metadata := flag.String("metadata", "", "more node metadata, as JSON")
	out := flag.String("out", "dump", "directory to write into")
	flag.Parse()

	node, err := nodeOf(*id, *labels, *metadata)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := discovery.NewAggregatedDiscoveryServiceClient(connection)
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	if err := captureSotw(ctx, client, node, *out); err != nil {
		return err
	}
	return captureDelta(ctx, client, node, *out)
}

func nodeOf(id, labels, more string) (*core.Node, error) {
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return nil, fmt.Errorf("node ID %q: want router~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN", id)
	}
	namespace, _, _ := strings.Cut(parts[3], ".")
	fields := map[string]any{"NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0", "NETWORK": "network1",
		"REQUESTED_NETWORK_VIEW": "network1", "SERVICE_ACCOUNT": "istio-eastwestgateway", "INSTANCE_IPS": parts[1]}
	pairs := map[string]any{}
	for _, pair := range strings.Split(labels, ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			pairs[name] = value
		}
	}
	fields["LABELS"] = pairs
	if more != "" {
		if err := json.Unmarshal([]byte(more), &fields); err != nil {
			return nil, err
		}
	}
	metadata, err := structpb.NewStruct(fields)
	return &core.Node{Id: id, Metadata: metadata}, err
}

func captureSotw(ctx context.Context, client discovery.AggregatedDiscoveryServiceClient, node *core.Node, out string) error {
	stream, err := client.StreamAggregatedResources(ctx)
	if err != nil {
		return err
	}
	ask := func(url string, names []string) (*discovery.DiscoveryResponse, error) {
		if err := stream.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: url, ResourceNames: names}); err != nil {
			return nil, err
		}
		for {
			response, err := stream.Recv()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", url, err)
			}
			if err := stream.Send(&discovery.DiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce, VersionInfo: response.VersionInfo, ResourceNames: names}); err != nil {
				return nil, err
			}
			if response.TypeUrl == url {
				response.VersionInfo, response.Nonce = "recorded", "recorded"
				sort.Slice(response.Resources, func(i, j int) bool {
					return bytes.Compare(response.Resources[i].Value, response.Resources[j].Value) < 0
				})
				return response, nil
			}
		}
	}
	clusters, err := ask(clusterType, nil)
	if err != nil {
		return err
	}
	names, err := endpointNames(clusters.Resources)
	if err != nil {
		return err
	}
	endpoints, err := ask(endpointType, names)
	if err != nil {
		return err
	}
	listeners, err := ask(listenerType, nil)
	if err != nil {
		return err
	}
	for name, message := range map[string]proto.Message{"cds": clusters, "eds": endpoints, "lds": listeners} {
		if err := record(out, node.Id, "sotw", name, message); err != nil {
			return err
		}
	}
	return nil
}

func captureDelta(ctx context.Context, client discovery.AggregatedDiscoveryServiceClient, node *core.Node, out string) error {
	stream, err := client.DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	ask := func(url string, names []string) (*discovery.DeltaDiscoveryResponse, error) {
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: url, ResourceNamesSubscribe: names}); err != nil {
			return nil, err
		}
		for {
			response, err := stream.Recv()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", url, err)
			}
			if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce}); err != nil {
				return nil, err
			}
			if response.TypeUrl == url {
				response.SystemVersionInfo, response.Nonce = "recorded", "recorded"
				sort.Slice(response.Resources, func(i, j int) bool { return response.Resources[i].Name < response.Resources[j].Name })
				return response, nil
			}
		}
	}
	clusters, err := ask(clusterType, []string{"*"})
	if err != nil {
		return err
	}
	bodies := []*anypb.Any{}
	for _, one := range clusters.Resources {
		bodies = append(bodies, one.Resource)
	}
	names, err := endpointNames(bodies)
	if err != nil {
		return err
	}
	endpoints, err := ask(endpointType, names)
	if err != nil {
		return err
	}
	listeners, err := ask(listenerType, []string{"*"})
	if err != nil {
		return err
	}
	for name, message := range map[string]proto.Message{"cds": clusters, "eds": endpoints, "lds": listeners} {
		if err := record(out, node.Id, "delta", name, message); err != nil {
			return err
		}
	}
	return nil
}

// endpointNames are the EDS names that a client asks for after it has seen these clusters.
func endpointNames(bodies []*anypb.Any) ([]string, error) {
	names := []string{}
	for _, body := range bodies {
		var one cluster.Cluster
		if err := body.UnmarshalTo(&one); err != nil {
			return nil, err
		}
		if eds := one.GetEdsClusterConfig(); eds != nil {
			names = append(names, eds.ServiceName)
		}
	}
	sort.Strings(names)
	return names, nil
}

func record(out, node, variant, name string, message proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return err
	}
	binary, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(out, variant+"-"+name+".json"))
	if err != nil {
		return err
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	encoder.SetIndent("", " ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(recording{Node: node, Variant: variant, Message: string(message.ProtoReflect().Descriptor().FullName()), Response: text, Binary: binary}); err != nil {
		return err
	}
	fmt.Println(file.Name(), len(binary), "bytes")
	return nil
}
