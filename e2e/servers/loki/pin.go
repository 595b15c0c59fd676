//go:build pin

// Package loki pins the Loki server that the end-to-end tests and the demo run, and the client
// that reading is compared with.
package loki

import (
	_ "github.com/grafana/loki/v3/cmd/logcli"
	_ "github.com/grafana/loki/v3/cmd/loki"
)
