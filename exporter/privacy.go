package main

import (
	"bytes"
	"fmt"
	"os"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/publish"
)

// redactors hide ids in each output as the configuration says; nil ones hide
// nothing.
type redactors struct{ metrics, findings, api, report, log *publish.Redactor }

// minKey is the shortest key in bytes that is not soon guessed.
const minKey = 16

func newRedactors(p *config.Privacy) (r redactors, err error) {
	var key []byte
	if p.KeyFile != "" {
		if key, err = os.ReadFile(p.KeyFile); err != nil {
			return r, fmt.Errorf("privacy.key_file: %w", err)
		}
		if key = bytes.TrimSpace(key); len(key) < minKey {
			return r, fmt.Errorf("privacy.key_file: %s holds %d bytes; give at least %d random ones, like those of `openssl rand -hex 32`", p.KeyFile, len(key), minKey)
		}
	}
	of := func(mode string) *publish.Redactor {
		switch mode {
		case config.Truncate:
			return publish.NewTruncator(key)
		case config.Hash:
			return publish.NewHasher(key)
		}
		return nil
	}
	return redactors{metrics: of(p.Metrics), findings: of(p.Findings), api: of(p.API), report: of(p.Report), log: of(p.Log)}, nil
}
