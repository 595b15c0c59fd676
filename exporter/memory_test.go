package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The bound is shared by the sources; what is forgotten is counted each time
// and told once an hour.
func TestForgettingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		d := &daemon{
			cfg:  &config.Config{Sources: make([]config.Source, 2), State: config.State{MaxTrackedKeys: 3000}},
			log:  slog.New(slog.NewTextHandler(&text, nil)),
			self: publish.NewSelf(prometheus.NewRegistry()),
		}
		var o correlate.Options
		d.bound(&o, "a")
		if o.MaxKeys != 1500 {
			t.Errorf("%d keys for one of two sources", o.MaxKeys)
		}
		for _, n := range []int{3, 4} {
			o.Forgot(n)
		}
		time.Sleep(time.Hour)
		o.Forgot(5)
		if n := strings.Count(text.String(), "state.max_tracked_keys"); n != 2 {
			t.Errorf("told %d times: %s", n, &text)
		}
		if n := testutil.ToFloat64(d.self.EvictedKeys); n != 12 {
			t.Errorf("%v counted", n)
		}
	})
}
