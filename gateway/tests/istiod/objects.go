package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/log"
)

// kubernetesGroups are the API groups that go to the fake Kubernetes client. Istio's own are read
// from the same files by istiod itself (its --configDir).
var kubernetesGroups = []string{"", "apps", "discovery.k8s.io"}

// objects keeps the fake Kubernetes API in step with a directory of YAML.
type objects struct {
	dir    string
	client kube.CLIClient

	mu      sync.Mutex
	applied map[key]runtime.Object
}

type key struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

func newObjects(dir string) (*objects, error) {
	o := &objects{dir: dir, client: kube.NewFakeClient(), applied: map[key]runtime.Object{}}
	_, err := o.apply()
	return o, err
}

// apply makes the fake API hold what the directory says, and returns how many objects changed.
func (o *objects) apply() (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wanted, err := read(o.dir)
	if err != nil {
		return 0, err
	}
	tracker := o.client.Kube().(*fake.Clientset).Tracker()
	changed := 0
	for k, object := range wanted {
		before, known := o.applied[k]
		switch {
		case !known:
			err = tracker.Create(k.resource, object.DeepCopyObject(), k.namespace)
		case reflect.DeepEqual(before, object):
			continue
		default:
			err = tracker.Update(k.resource, object.DeepCopyObject(), k.namespace)
		}
		if err != nil {
			return changed, fmt.Errorf("%v: %w", k, err)
		}
		changed++
	}
	for k := range o.applied {
		if _, still := wanted[k]; still {
			continue
		}
		if err := tracker.Delete(k.resource, k.namespace, k.name); err != nil {
			return changed, fmt.Errorf("%v: %w", k, err)
		}
		changed++
	}
	o.applied = wanted
	return changed, nil
}

func read(dir string) (map[key]runtime.Object, error) {
	found := map[key]runtime.Object{}
	return found, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = add(found, document)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	})
}

func add(found map[key]runtime.Object, document []byte) error {
	var header struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(document, &header); err != nil || header.Kind == "" {
		return err
	}
	kind := schema.FromAPIVersionAndKind(header.APIVersion, header.Kind)
	if !slices.Contains(kubernetesGroups, kind.Group) {
		return nil
	}
	object, _, err := kube.IstioCodec.UniversalDeserializer().Decode(document, nil, nil)
	if err != nil {
		return err
	}
	named, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	found[key{resource, named.GetNamespace(), named.GetName()}] = object
	return nil
}

// watch applies the directory anew after it changes.
func (o *objects) watch(stop <-chan struct{}) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := watcher.Add(o.dir); err != nil {
		return err
	}
	go func() {
		defer watcher.Close()
		var settled <-chan time.Time // many events make one change
		for {
			select {
			case <-watcher.Events:
				settled = time.After(50 * time.Millisecond)
			case <-settled:
				if _, err := o.apply(); err != nil {
					log.Warnf("the Kubernetes objects stay as they were: %v", err)
				}
			case <-stop:
				return
			}
		}
	}()
	return nil
}
