//go:build seed

package proto

import (
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
)
