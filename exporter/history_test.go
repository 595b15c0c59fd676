package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
)

func TestHistoryStep(t *testing.T) {
	for lookback, want := range map[time.Duration]time.Duration{
		time.Hour: time.Minute, 2000 * time.Minute: time.Minute, 2001 * time.Minute: 2 * time.Minute, 30 * 24 * time.Hour: 22 * time.Minute, 365 * 24 * time.Hour: 263 * time.Minute,
	} {
		if got := historyStep(lookback); got != want || lookback/got > historyPoints {
			t.Errorf("%v: %v, want %v", lookback, got, want)
		}
	}
}

// What was noted stands in the next start, also beside a state that is gone,
// and a file that cannot be read is as none.
func TestLedger(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	l := openLedger(state)
	if err := l.note("a", "loki", historyDone); err != nil {
		t.Fatal(err)
	}
	if err := l.note("b", "loki", historyBegun); err != nil {
		t.Fatal(err)
	}
	next := openLedger(state)
	if next.state("a", "loki") != historyDone || next.state("b", "loki") != historyBegun || next.state("a", "other") != "" {
		t.Errorf("%v", next.known)
	}
	if info, err := os.Stat(state + ledgerSuffix); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(state+ledgerSuffix, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if broken := openLedger(state); broken.state("a", "loki") != "" {
		t.Error("half a file says something")
	}
	if err := openLedger(filepath.Join(state, "none", "state")).note("a", "loki", historyDone); err == nil {
		t.Error("nothing is noted, and nobody told")
	}
}

// What the ledger says of a receiver holds no secret of its URL.
func TestLedgerKeyIsPlain(t *testing.T) {
	c, err := config.Load([]byte("sources: [{}]\nremote_write: [{url: 'http://me:geheim@h/api/v1/push?t=geheim', headers: {X-Key: geheim}, external_labels: {instance: a}}]"), false, config.Validators{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ledgerKey(&c.Remotes[0]), "http://h/api/v1/push map[instance:a job:fail2ban-loki-exporter]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestReceiverURL(t *testing.T) {
	for given, want := range map[string]string{
		"http://h:9090": "http://h:9090/api/v1/write", "http://h:9090/": "http://h:9090/api/v1/write", "http://h/api/v1/push": "http://h/api/v1/push", "http://h/?a=b": "http://h/api/v1/write?a=b",
	} {
		c, err := config.Load([]byte("sources: [{}]\nremote_write: [{url: '"+given+"'}]"), false, config.Validators{})
		if err != nil {
			t.Fatal(err)
		}
		if got := receiverURL(&c.Remotes[0]).String(); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
}
