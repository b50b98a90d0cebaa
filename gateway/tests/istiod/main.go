// Command istiod runs the real istiod (istio.io/istio/pilot/pkg/bootstrap) in one process on
// loopback, over a directory of Kubernetes and Istio YAML, for Eastgate's tests. README.md
// describes its flags and its HTTP API; `istiod capture` records what it sends.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"istio.io/istio/pilot/pkg/bootstrap"
	kubecontroller "istio.io/istio/pilot/pkg/serviceregistry/kube/controller"
	"istio.io/istio/pkg/log"
)

func main() {
	run := serve
	if len(os.Args) > 1 && os.Args[1] == "capture" {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		run = capture
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "istiod:", err)
		os.Exit(1)
	}
}

func serve() error {
	config := flag.String("config", "", "directory of Kubernetes and Istio YAML (required); watched")
	mesh := flag.String("mesh", "", "file with the MeshConfig; default: Istio's own default")
	networks := flag.String("networks", "", "file with the MeshNetworks")
	plaintext := flag.String("listen", "127.0.0.1:0", "address of plaintext xDS (15010 in a cluster)")
	secure := flag.String("secure", "127.0.0.1:0", "address of xDS and CSR over TLS (15012 in a cluster)")
	admin := flag.String("admin", "127.0.0.1:0", "address of the HTTP port that drives this server")
	ca := flag.String("ca", "", "directory of the plugged CA (ROOT_CA_DIR); made if empty; default: a temporary one")
	maxAge := flag.Duration("max-age", 0, "close every connection (GOAWAY) at about this age, as istiod's chart does at 30m; 0 means never")
	lifetime := flag.Duration("lifetime", 10*time.Minute, "exit after this time at the latest")
	verbose := flag.Bool("verbose", false, "istiod's info log on stderr instead of its warnings")
	flag.Parse()
	if *config == "" {
		return fmt.Errorf("--config DIR is required")
	}
	if err := logToStderr(*verbose); err != nil {
		return err
	}

	scratch, err := os.MkdirTemp("", "eastgate-istiod-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if *ca == "" {
		*ca = filepath.Join(scratch, "ca")
	}
	root, err := ensureCA(*ca)
	if err != nil {
		return err
	}
	// Read by istiod when it makes its CA, thus early enough here; most of istiod's other variables
	// are read before main and must stand in our environment.
	if err := os.Setenv("ROOT_CA_DIR", *ca); err != nil {
		return err
	}

	adminListener, err := net.Listen("tcp", *admin)
	if err != nil {
		return err
	}
	plaintextListener, err := net.Listen("tcp", *plaintext)
	if err != nil {
		return err
	}
	secureListener, err := net.Listen("tcp", *secure)
	if err != nil {
		return err
	}
	issuer, err := newIssuer("http://" + adminListener.Addr().String())
	if err != nil {
		return err
	}
	api := http.NewServeMux()
	issuer.register(api)
	go http.Serve(adminListener, api) // istiod fetches our JWKS from here while it starts

	objects, err := newObjects(*config)
	if err != nil {
		return err
	}
	args := bootstrap.NewPilotArgs(func(p *bootstrap.PilotArgs) {
		p.Namespace = "istio-system"
		p.PodName = "istiod-test"
		p.MeshConfigFile = *mesh
		p.NetworksConfigFile = *networks
		p.JwtRule = issuer.rule()
		p.ShutdownDuration = time.Millisecond
		p.RegistryOptions = bootstrap.RegistryOptions{
			FileDir:     *config,
			Registries:  []string{"Kubernetes"},
			KubeOptions: kubecontroller.Options{DomainSuffix: "cluster.local", ClusterID: "Kubernetes"},
		}
		p.ServerOptions = bootstrap.DiscoveryServerOptions{
			HTTPAddr: "127.0.0.1:0", MonitoringAddr: "", GRPCAddr: "127.0.0.1:0", SecureGRPCAddr: "127.0.0.1:0",
			TLSOptions: bootstrap.TLSOptions{TLSMinVersion: bootstrap.TLSMinVersion1_2},
		}
		if *maxAge > 0 {
			p.KeepaliveOptions.MaxServerConnectionAge = *maxAge
		}
	})
	if err := args.Complete(); err != nil {
		return err
	}
	server, err := bootstrap.NewServer(args, func(s *bootstrap.Server) { setKubeClient(s, objects.client) })
	if err != nil {
		return fmt.Errorf("new server: %w", err)
	}
	stop := make(chan struct{})
	if err := server.Start(stop); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	// istiod does not tell which ports it took, so its own gRPC servers serve our listeners as well.
	go grpcServer(server, "grpcServer").Serve(plaintextListener)
	go grpcServer(server, "secureGrpcServer").Serve(secureListener)
	if err := objects.watch(stop); err != nil {
		return err
	}

	end := make(chan struct{}, 1)
	registerAPI(api, server, objects, end)
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"xds": plaintextListener.Addr().String(), "secure": secureListener.Addr().String(),
		"admin": adminListener.Addr().String(), "debug": httpAddress(server),
		"root": root, "server_name": "istiod.istio-system.svc", "pid": os.Getpid(),
	}); err != nil {
		return err
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go endWithStdin(end)
	select {
	case <-signals:
	case <-end:
	case <-time.After(*lifetime):
	}
	return nil // leaving the process is enough: istiod keeps nothing on disk
}

// endWithStdin ends the process when the pipe that is its stdin closes; a terminal or /dev/null is no such pipe.
func endWithStdin(end chan<- struct{}) {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	end <- struct{}{}
}

func logToStderr(verbose bool) error {
	options := log.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	if !verbose {
		options.SetDefaultOutputLevel(log.OverrideScopeName, log.WarnLevel)
	}
	return log.Configure(options)
}
