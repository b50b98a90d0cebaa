package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	server "github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

// entry is one message on a stream, as GET /requests and GET /responses show it.
type entry struct {
	Seq         int               `json:"seq"`
	At          time.Time         `json:"at"`
	Stream      int64             `json:"stream"`
	Variant     string            `json:"variant"` // sotw or delta
	Kind        string            `json:"kind"`    // open, ack, nack, change (requests); response
	HasNode     bool              `json:"has_node"`
	Node        string            `json:"node"` // of the stream
	Type        string            `json:"type"`
	Version     string            `json:"version,omitempty"`
	Nonce       string            `json:"nonce,omitempty"`
	Names       []string          `json:"names,omitempty"`
	Subscribe   []string          `json:"subscribe,omitempty"`
	Unsubscribe []string          `json:"unsubscribe,omitempty"`
	Initial     map[string]string `json:"initial_resource_versions,omitempty"`
	Removed     []string          `json:"removed,omitempty"`
	ErrorCode   int32             `json:"error_code,omitempty"`
	ErrorDetail string            `json:"error_detail,omitempty"`
}

// journal remembers every message, and lets readers wait for the next.
type journal struct {
	mu        sync.Mutex
	seq       int
	requests  []entry
	responses []entry
	nodes     map[int64]*core.Node
	news      chan struct{} // closed and replaced at every entry
}

func newJournal() *journal {
	return &journal{nodes: map[int64]*core.Node{}, news: make(chan struct{})}
}

func (j *journal) add(list *[]entry, e entry, node *core.Node) {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := e.Stream
	if e.Variant == "delta" { // the two engines number their streams apart
		key = -key
	}
	if node != nil {
		e.HasNode = true
		j.nodes[key] = node
	}
	e.Node = j.nodes[key].GetId()
	j.seq++
	e.Seq, e.At = j.seq, time.Now()
	*list = append(*list, e)
	close(j.news)
	j.news = make(chan struct{})
}

// read returns the entries that match, waiting until there is at least one or ctx ends.
func (j *journal) read(ctx context.Context, list *[]entry, matches func(entry) bool) []entry {
	for {
		j.mu.Lock()
		news := j.news
		found := []entry{}
		for _, e := range *list {
			if matches(e) {
				found = append(found, e)
			}
		}
		j.mu.Unlock()
		if len(found) > 0 {
			return found
		}
		select {
		case <-news:
		case <-ctx.Done():
			return found
		}
	}
}

// clear forgets the entries; sequence numbers go on.
func (j *journal) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.requests, j.responses = nil, nil
}

func kind(nonce string, failed bool) string {
	switch {
	case failed:
		return "nack"
	case nonce != "":
		return "ack" // in SotW also a change of the names: compare them with the entry before
	default:
		return "open" // first of its type on the stream, or a spontaneous change (delta)
	}
}

func (j *journal) callbacks(resources *resources) server.Callbacks {
	return server.CallbackFuncs{
		StreamRequestFunc: func(stream int64, r *discovery.DiscoveryRequest) error {
			j.add(&j.requests, entry{
				Stream: stream, Variant: "sotw", Kind: kind(r.ResponseNonce, r.ErrorDetail != nil),
				Type: r.TypeUrl, Version: r.VersionInfo, Nonce: r.ResponseNonce, Names: r.ResourceNames,
				ErrorCode: r.GetErrorDetail().GetCode(), ErrorDetail: r.GetErrorDetail().GetMessage(),
			}, r.Node)
			return resources.meet(r.Node)
		},
		StreamResponseFunc: func(_ context.Context, stream int64, request *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			j.add(&j.responses, entry{
				Stream: stream, Variant: "sotw", Kind: "response",
				Type: r.TypeUrl, Version: r.VersionInfo, Nonce: r.Nonce, Names: names(r),
			}, nil)
		},
		StreamDeltaRequestFunc: func(stream int64, r *discovery.DeltaDiscoveryRequest) error {
			j.add(&j.requests, entry{
				Stream: stream, Variant: "delta", Kind: kind(r.ResponseNonce, r.ErrorDetail != nil),
				Type: r.TypeUrl, Nonce: r.ResponseNonce,
				Subscribe: r.ResourceNamesSubscribe, Unsubscribe: r.ResourceNamesUnsubscribe, Initial: r.InitialResourceVersions,
				ErrorCode: r.GetErrorDetail().GetCode(), ErrorDetail: r.GetErrorDetail().GetMessage(),
			}, r.Node)
			return resources.meet(r.Node)
		},
		StreamDeltaResponseFunc: func(stream int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			sent := []string{}
			for _, one := range r.Resources {
				sent = append(sent, one.Name)
			}
			j.add(&j.responses, entry{
				Stream: stream, Variant: "delta", Kind: "response", Type: r.TypeUrl,
				Version: r.SystemVersionInfo, Nonce: r.Nonce, Names: sent, Removed: r.RemovedResources,
			}, nil)
		},
	}
}

// names lists the resources in a SotW response, which does not name them outside their bodies.
func names(r *discovery.DiscoveryResponse) []string {
	found := map[string]bool{}
	for _, body := range r.Resources {
		message, err := body.UnmarshalNew()
		if err != nil {
			continue
		}
		found[nameOf(message)] = true
	}
	return slices.Sorted(maps.Keys(found))
}
