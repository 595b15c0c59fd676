// Package e2e drives the built binary as a black box against a real Loki and a
// real Prometheus, with recordings of real fail2ban servers.
//
// The binary is $EXPORTER, or built from the repository; the servers are built
// from their pinned modules. The first build of these costs minutes, before
// the clock of go test's -timeout starts, yet go test itself gives up a minute
// after that time: give it -timeout 30m.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// What TestMain made, for all tests.
var (
	exporter string      // the binary
	promtool string      // the binary
	loki     *lab.Server // one for all: each test has tenants of its own
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	var err error
	if exporter, err = lab.Exporter(ctx, os.Stderr); err != nil {
		return 1, err
	}
	if promtool, err = lab.Build(ctx, "promtool", os.Stderr); err != nil {
		return 1, err
	}
	if _, err = lab.Build(ctx, "prometheus", os.Stderr); err != nil {
		return 1, err
	}
	if _, err = lab.Build(ctx, "loki", os.Stderr); err != nil {
		return 1, err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if loki, err = lab.StartLoki(ready, lab.LokiOptions{Auth: true}); err != nil {
		return 1, err
	}
	defer loki.Stop()
	return m.Run(), nil
}
