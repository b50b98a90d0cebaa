package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// The core group has no name, and a custom resource definition must have one. So Services, Pods and Namespaces are
// custom resources of a group of ours, and what goes in and out under /api/v1 is renamed on the way.
const coreGroup = "core.eastgate.test"

var inner, outer = []byte(coreGroup + "/v1"), []byte("v1")

func core(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api" {
			_, _ = io.WriteString(w, `{"kind":"APIVersions","versions":["v1"]}`)
			return
		}
		rest, found := strings.CutPrefix(r.URL.Path, "/api/v1")
		if !found {
			api.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if r.Method != http.MethodDelete {
			body = bytes.Replace(body, []byte(`"apiVersion":"v1"`), []byte(`"apiVersion":"`+coreGroup+`/v1"`), 1)
		}
		// Below a group, /namespaces/NAME is what is in the namespace, and never the namespace itself.
		if name, found := strings.CutPrefix(rest, "/namespaces"); found && strings.Count(name, "/") <= 1 {
			rest = "/nses" + name
		}
		request := r.Clone(r.Context())
		request.URL.Path = "/apis/" + coreGroup + "/v1" + rest
		request.RequestURI = request.URL.RequestURI()
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		// Compressed answers cannot be renamed.
		request.Header.Del("Accept-Encoding")
		api.ServeHTTP(&renamed{ResponseWriter: w}, request)
	})
}

// renamed gives answers and events back in the core group's name. The name is held back while it may go on in the next
// piece.
type renamed struct {
	http.ResponseWriter
	held []byte
}

func (w *renamed) WriteHeader(code int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(code)
}

func (w *renamed) Write(piece []byte) (int, error) {
	w.Header().Del("Content-Length")
	text := bytes.ReplaceAll(append(w.held, piece...), inner, outer)
	text = bytes.ReplaceAll(text, []byte(`"name":"nses"`), []byte(`"name":"namespaces"`))
	keep := 0
	for n := min(len(inner)-1, len(text)); n > 0 && keep == 0; n-- {
		if bytes.HasSuffix(text, inner[:n]) {
			keep = n
		}
	}
	w.held = bytes.Clone(text[len(text)-keep:])
	if _, err := w.ResponseWriter.Write(text[:len(text)-keep]); err != nil {
		return 0, err
	}
	return len(piece), nil
}

func (w *renamed) Flush() {
	w.ResponseWriter.(http.Flusher).Flush()
}

// CloseNotify is what the API server knows a writer by that can be flushed.
func (w *renamed) CloseNotify() <-chan bool {
	return w.ResponseWriter.(http.CloseNotifier).CloseNotify() //nolint:staticcheck
}
