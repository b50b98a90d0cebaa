package main

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"istio.io/istio/pilot/pkg/bootstrap"
	"istio.io/istio/pilot/pkg/model"
)

// registerAPI adds what a test drives istiod with; README.md has the table.
func registerAPI(mux *http.ServeMux, server *bootstrap.Server, objects *objects, end chan<- struct{}) {
	pushes := func() map[string]int64 {
		return map[string]int64{
			"inbound":   server.XDSServer.InboundUpdates.Load(),
			"committed": server.XDSServer.CommittedUpdates.Load(),
		}
	}
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		changed, err := objects.apply()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		inbound := server.XDSServer.InboundUpdates.Load()
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for server.XDSServer.CommittedUpdates.Load() < inbound {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				http.Error(w, "istiod did not commit its updates within 10s", http.StatusGatewayTimeout)
				return
			}
		}
		answer(w, map[string]any{"changed": changed, "pushes": pushes()})
	})
	mux.HandleFunc("POST /push", func(w http.ResponseWriter, _ *http.Request) {
		server.XDSServer.ConfigUpdate(&model.PushRequest{Forced: true, Reason: model.NewReasonStats(model.DebugTrigger)})
		answer(w, pushes())
	})
	mux.HandleFunc("GET /pushes", func(w http.ResponseWriter, _ *http.Request) { answer(w, pushes()) })
	mux.HandleFunc("GET /clients", func(w http.ResponseWriter, _ *http.Request) {
		clients := []map[string]string{}
		for _, c := range server.XDSServer.Clients() {
			clients = append(clients, map[string]string{"node": c.Proxy().ID, "peer": c.Peer()})
		}
		answer(w, clients)
	})
	mux.HandleFunc("POST /quit", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{})
		end <- struct{}{}
	})
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
