//go:build seed

package integration

import (
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/google/uuid"
	_ "golang.org/x/sync/errgroup"
	_ "github.com/google/go-cmp/cmp"
	_ "pgregory.net/rapid"
	_ "go.opentelemetry.io/otel"
	_ "go.opentelemetry.io/otel/trace"
	_ "go.opentelemetry.io/otel/metric"
	_ "github.com/twmb/franz-go/pkg/kgo"
	_ "github.com/twmb/franz-go/pkg/kfake"
)
