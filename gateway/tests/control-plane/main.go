// Command control-plane is an xDS server for Eastgate's tests: go-control-plane's caches and
// protocol engine, driven over HTTP. README.md describes the flags and the API.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	server "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "control-plane:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:0", "address of the gRPC (ADS) port")
	admin := flag.String("admin", "127.0.0.1:0", "address of the HTTP port that drives this server")
	ads := flag.Bool("ads", true, "snapshot cache holds a SotW answer until every resource of the snapshot is asked for")
	linear := flag.Bool("linear", false, "one linear cache per type, shared by all nodes, instead of snapshots per node")
	maxAge := flag.Duration("max-age", 0, "close every connection (GOAWAY) at this age; 0 means never")
	heartbeat := flag.Duration("heartbeat", 0, "send heartbeats of resources that have a TTL this often; 0 means never")
	lifetime := flag.Duration("lifetime", 10*time.Minute, "exit after this time at the latest")
	verbose := flag.Bool("verbose", false, "log what the caches do to stderr")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *lifetime)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go endWithStdin(cancel)

	grpcListener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	adminListener, err := net.Listen("tcp", *admin)
	if err != nil {
		return err
	}

	logger := log.New(io.Discard, "", log.LstdFlags|log.Lmicroseconds)
	if *verbose {
		logger.SetOutput(os.Stderr)
	}
	journal := newJournal()
	resources := newResources(ctx, *linear, *ads, *heartbeat, logger)
	gate := newGate()
	connections := newConnections(grpcListener)

	callbacks := journal.callbacks(resources)
	grpcServer := grpc.NewServer(
		grpc.StreamInterceptor(gate.intercept),
		grpc.MaxRecvMsgSize(1<<30),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: *maxAge, MaxConnectionAgeGrace: time.Millisecond}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	xds := server.NewServer(ctx, resources.cache, callbacks)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, xds)
	secret.RegisterSecretDiscoveryServiceServer(grpcServer, xds) // istiod's clusters ask "sds-grpc", not ADS, for secrets
	api := &http.Server{Handler: newAPI(resources, journal, gate, connections, cancel)}

	failed := make(chan error, 2)
	go func() { failed <- grpcServer.Serve(connections) }()
	go func() { failed <- api.Serve(adminListener) }()

	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"xds":   grpcListener.Addr().String(),
		"admin": adminListener.Addr().String(),
		"pid":   os.Getpid(),
	}); err != nil {
		return err
	}

	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	grpcServer.Stop()
	api.Close()
	return err
}

// endWithStdin ends the process when the one who started it goes away: when the pipe that is our
// stdin closes. A terminal or /dev/null is no such pipe.
func endWithStdin(end func()) {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	end()
}
