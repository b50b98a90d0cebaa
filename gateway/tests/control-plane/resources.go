package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	cplog "github.com/envoyproxy/go-control-plane/pkg/log"
	resource "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// typeURLs are the words of the HTTP API for the types that are served.
var typeURLs = map[string]string{
	"clusters":  resource.ClusterType,
	"endpoints": resource.EndpointType,
	"listeners": resource.ListenerType,
	"routes":    resource.RouteType,
	"secrets":   resource.SecretType,
}

// change is the body of PUT /snapshot (replaces all) and POST /mutate (touches what it names).
type change struct {
	Node      string                       `json:"node"`      // node ID; empty means every node without resources of its own
	Version   string                       `json:"version"`   // of every type touched; empty means the next number
	Versions  map[string]string            `json:"versions"`  // by type, over Version
	Resources map[string][]json.RawMessage `json:"resources"` // protobuf-JSON by type
	Raw       map[string][]string          `json:"raw"`       // base64 of the binary message by type, for what JSON cannot say
	Remove    map[string][]string          `json:"remove"`    // names by type (POST /mutate)
	TTL       string                       `json:"ttl"`       // of the resources in this change, as a Go duration
}

// set is what one node is to have: by type URL and name, and by type URL the version.
type set struct {
	items    map[string]map[string]types.ResourceWithTTL
	versions map[string]string
}

func newSet() *set {
	return &set{items: map[string]map[string]types.ResourceWithTTL{}, versions: map[string]string{}}
}

func (s *set) snapshot() *cachev3.Snapshot {
	out := &cachev3.Snapshot{}
	for _, url := range typeURLs {
		out.Resources[cachev3.GetResponseType(url)] = cachev3.Resources{Version: s.versions[url], Items: maps.Clone(s.items[url])}
	}
	return out
}

// resources keeps the desired set of every node, and puts it into go-control-plane's caches.
type resources struct {
	ctx   context.Context
	cache cachev3.Cache

	mu        sync.Mutex
	sets      map[string]*set // by node ID; "" is any node
	seen      map[string]bool // node IDs that have connected
	counter   int
	snapshots cachev3.SnapshotCache           // nil when linear
	linear    map[string]*cachev3.LinearCache // nil when not
}

func newResources(ctx context.Context, linear, ads bool, heartbeat time.Duration, logger *log.Logger) *resources {
	r := &resources{ctx: ctx, sets: map[string]*set{}, seen: map[string]bool{}}
	cacheLog := cplog.LoggerFuncs{DebugFunc: logger.Printf, InfoFunc: logger.Printf, WarnFunc: logger.Printf, ErrorFunc: logger.Printf}
	if linear {
		r.linear = map[string]*cachev3.LinearCache{}
		caches := map[string]cachev3.Cache{}
		for _, url := range typeURLs {
			r.linear[url] = cachev3.NewLinearCache(url, cachev3.WithLogger(cacheLog))
			caches[url] = r.linear[url]
		}
		r.cache = &cachev3.MuxCache{
			Classify:      func(request *cachev3.Request) string { return request.GetTypeUrl() },
			ClassifyDelta: func(request *cachev3.DeltaRequest) string { return request.GetTypeUrl() },
			Caches:        caches,
		}
		return r
	}
	if heartbeat > 0 {
		r.snapshots = cachev3.NewSnapshotCacheWithHeartbeating(ctx, ads, cachev3.IDHash{}, cacheLog, heartbeat)
	} else {
		r.snapshots = cachev3.NewSnapshotCache(ads, cachev3.IDHash{}, cacheLog)
	}
	r.cache = r.snapshots
	return r
}

// meet gives a node that connects for the first time what any node is to have.
func (r *resources) meet(node *core.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := node.GetId()
	if id == "" || r.seen[id] {
		return nil
	}
	r.seen[id] = true
	if own, any_ := r.sets[id], r.sets[""]; own == nil && any_ != nil && r.snapshots != nil {
		return r.snapshots.SetSnapshot(r.ctx, id, any_.snapshot())
	}
	return nil
}

// apply replaces or changes a set, hands it to the caches, and returns the version.
func (r *resources) apply(c change, replace bool) (string, error) {
	items, err := c.decode()
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.linear != nil && c.Node != "" {
		return "", fmt.Errorf("linear caches are shared by all nodes: leave node empty")
	}
	version := c.Version
	if version == "" {
		r.counter++
		version = strconv.Itoa(r.counter)
	}
	target := r.sets[c.Node]
	if target == nil || replace {
		target = newSet()
		for _, url := range typeURLs {
			target.versions[url] = version
		}
		if !replace && r.sets[""] != nil { // a node's first own change starts from what any node has
			for url := range r.sets[""].items {
				target.items[url] = maps.Clone(r.sets[""].items[url])
			}
			target.versions = maps.Clone(r.sets[""].versions)
		}
		r.sets[c.Node] = target
	}
	for word, names := range c.Remove {
		url, err := typeURL(word)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			delete(target.items[url], name)
		}
		target.versions[url] = version
	}
	for url, byName := range items {
		if target.items[url] == nil {
			target.items[url] = map[string]types.ResourceWithTTL{}
		}
		maps.Copy(target.items[url], byName)
		target.versions[url] = version
	}
	for word, v := range c.Versions {
		url, err := typeURL(word)
		if err != nil {
			return "", err
		}
		target.versions[url] = v
	}
	if r.linear != nil {
		return version, r.applyLinear(c, items, replace)
	}
	return version, r.applySnapshots(c.Node, target)
}

func (r *resources) applySnapshots(node string, target *set) error {
	if node != "" {
		return r.snapshots.SetSnapshot(r.ctx, node, target.snapshot())
	}
	for id := range r.seen {
		if r.sets[id] == nil {
			if err := r.snapshots.SetSnapshot(r.ctx, id, target.snapshot()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *resources) applyLinear(c change, items map[string]map[string]types.ResourceWithTTL, replace bool) error {
	// Clusters before endpoints before listeners: make before break.
	for _, word := range []string{"clusters", "endpoints", "secrets", "listeners", "routes"} {
		url := typeURLs[word]
		plain := map[string]types.Resource{}
		for name, item := range items[url] {
			plain[name] = item.Resource
		}
		if replace {
			r.linear[url].SetResources(plain)
		} else if len(plain)+len(c.Remove[word]) > 0 {
			if err := r.linear[url].UpdateResources(plain, c.Remove[word]); err != nil {
				return err
			}
		}
	}
	return nil
}

// decode turns the JSON and the binary resources of a change into messages by type URL and name.
func (c *change) decode() (map[string]map[string]types.ResourceWithTTL, error) {
	var ttl *time.Duration
	if c.TTL != "" {
		parsed, err := time.ParseDuration(c.TTL)
		if err != nil {
			return nil, err
		}
		ttl = &parsed
	}
	out := map[string]map[string]types.ResourceWithTTL{}
	add := func(word string, fill func(proto.Message) error) error {
		message, url, err := newMessage(word)
		if err != nil {
			return err
		}
		if err := fill(message); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
		if out[url] == nil {
			out[url] = map[string]types.ResourceWithTTL{}
		}
		out[url][cachev3.GetResourceName(message)] = types.ResourceWithTTL{Resource: message, TTL: ttl}
		return nil
	}
	for word, list := range c.Resources {
		for _, text := range list {
			if err := add(word, func(m proto.Message) error { return protojson.Unmarshal(text, m) }); err != nil {
				return nil, err
			}
		}
	}
	for word, list := range c.Raw {
		for _, text := range list {
			bytes, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, err
			}
			if err := add(word, func(m proto.Message) error { return proto.Unmarshal(bytes, m) }); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func typeURL(word string) (string, error) {
	if url, ok := typeURLs[word]; ok {
		return url, nil
	}
	if slices.Contains(slices.Collect(maps.Values(typeURLs)), word) {
		return word, nil
	}
	return "", fmt.Errorf("unknown type %q: clusters, endpoints, listeners, routes, secrets or their type URL", word)
}

func newMessage(word string) (proto.Message, string, error) {
	url, err := typeURL(word)
	if err != nil {
		return nil, "", err
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(url[len("type.googleapis.com/"):]))
	if err != nil {
		return nil, "", err
	}
	return kind.New().Interface(), url, nil
}
