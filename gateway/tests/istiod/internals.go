package main

import (
	"reflect"
	"unsafe"

	"google.golang.org/grpc"
	"istio.io/istio/pilot/pkg/bootstrap"
	"istio.io/istio/pkg/kube"
)

// istiod's own tests give bootstrap.Server a fake Kubernetes client from inside its package. We are
// outside, so the three private fields we need are reached by reflection, here and nowhere else.

func setKubeClient(s *bootstrap.Server, client kube.Client) {
	field := reflect.ValueOf(s).Elem().FieldByName("kubeClient")
	reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Set(reflect.ValueOf(client))
}

func grpcServer(s *bootstrap.Server, field string) *grpc.Server {
	return (*grpc.Server)(reflect.ValueOf(s).Elem().FieldByName(field).UnsafePointer())
}

func httpAddress(s *bootstrap.Server) string {
	return reflect.ValueOf(s).Elem().FieldByName("httpAddr").String()
}
