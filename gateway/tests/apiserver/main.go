// Command apiserver runs k8s.io/apiextensions-apiserver on loopback for Eastgate's tests: the real API machinery
// (lists in pages, watches, resource versions, 410 Gone, server-side apply) over an etcd that it starts, for the custom
// resource definitions in definitions.yaml. README.md describes it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

func main() {
	flags := flag.NewFlagSet("apiserver", flag.ExitOnError)
	data := flags.String("data", "", "directory of etcd's data (required); a second start finds what the first one stored")
	listen := flags.String("listen", "127.0.0.1:0", "address of the API over TLS")
	certificate := flags.String("certificate", "", "file with the serving certificate (required)")
	key := flags.String("key", "", "file with its key (required)")
	token := flags.String("token", "", "bearer token of who may do everything (required)")
	accounts := flags.String("tokens", "", "file of other tokens: token,user,uid[,\"group,group\"] on each line")
	roles := flags.String("rbac", os.DevNull, "manifest of the roles that say what these users may do")
	lifetime := flags.Duration("lifetime", 10*time.Minute, "exit after this time at the latest")
	verbose := flags.Bool("verbose", false, "the log of etcd and of the server on stderr")
	_ = flags.Parse(os.Args[1:])
	if *data == "" || *certificate == "" || *key == "" || *token == "" {
		fail(fmt.Errorf("--data, --certificate, --key and --token are required"))
	}
	logs := io.Writer(io.Discard)
	if *verbose {
		logs = os.Stderr
	}
	logging := flag.NewFlagSet("logging", flag.PanicOnError)
	klog.InitFlags(logging)
	_ = logging.Parse([]string{"--logtostderr=false", "--stderrthreshold=FATAL"})
	klog.SetOutput(logs)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *lifetime)
	defer cancel()
	// The parent's end closes standard input, however it ends.
	go func() {
		_, _ = bufio.NewReader(os.Stdin).WriteTo(io.Discard)
		cancel()
	}()

	etcd, err := startEtcd(*data, logs)
	if err != nil {
		fail(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fail(err)
	}
	server := &server{
		etcd: etcd, certificate: *certificate, key: *key, listener: listener,
		authentication: authentication(*token, *accounts), authorization: authorization(*roles),
	}
	err = server.run(ctx, func() {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]string{
			"api":  listener.Addr().String(),
			"etcd": etcd,
		})
	})
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "apiserver:", err)
	os.Exit(1)
}

// startEtcd gives the URL of an etcd that ends when this process does, even if it is killed.
func startEtcd(data string, logs io.Writer) (string, error) {
	var urls [2]string
	for i := range urls {
		port, err := freePort()
		if err != nil {
			return "", err
		}
		urls[i] = "http://127.0.0.1:" + strconv.Itoa(port)
	}
	command := exec.Command("etcd", "--data-dir", data, "--unsafe-no-fsync",
		"--listen-client-urls", urls[0], "--advertise-client-urls", urls[0],
		"--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1], "--initial-cluster", "default="+urls[1])
	command.Stdout, command.Stderr = logs, logs
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return "", fmt.Errorf("etcd (Debian's etcd-server): %w", err)
	}
	return urls[0], nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
