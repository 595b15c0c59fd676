package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
)

// store is where a source's state is kept; nil where none shall be.
func (d *daemon) store(s *config.Source) (*pipeline.Store, error) {
	if d.cfg.State.Path == "" || d.once {
		return nil, nil
	}
	path := statePath(d.cfg, s)
	if err := writable(path); err != nil {
		return nil, fmt.Errorf("state.path: %w; name a file in a folder that this user may write to", err)
	}
	print, err := fingerprint(d.cfg, s)
	if err != nil {
		return nil, err
	}
	return &pipeline.Store{Path: path, Fingerprint: print, Every: time.Duration(d.cfg.State.SaveInterval), Saved: d.saved}, nil
}

// statePath is the file of a source: with several, each has its own.
func statePath(cfg *config.Config, s *config.Source) string {
	if len(cfg.Sources) == 1 {
		return cfg.State.Path
	}
	return cfg.State.Path + "." + url.PathEscape(s.Name)
}

// writable tries what a save will do.
func writable(path string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// saved counts a save.
func (d *daemon) saved(result string, stood time.Duration, err error) {
	d.self.StateSaves.WithLabelValues(result).Inc()
	if result != pipeline.SaveSkipped {
		d.save.Store(&lastSave{time.Now(), err})
		d.self.StateDuration.Observe(stood.Seconds())
	}
	if err != nil {
		d.log.Error("the state was not saved; the last one stands", "err", err)
	}
}

// pending is a source that is all set but for where to go on.
type pending struct {
	source      *config.Source
	client      *loki.Client
	progress    *progress
	sinks       []pipeline.Sink
	feed        pipeline.FeedOptions
	follow      pipeline.FollowOptions
	fingerprint string
}

// resume loads what a source has come to before, or says why the look-back is
// read again.
func (d *daemon) resume(p *pending, c *carried) *pipeline.Saved {
	name, st := p.source.Name, p.follow.Store
	saved, err := d.load(p, c)
	reach := time.Now().Add(-time.Duration(p.source.Lookback))
	if err == nil && saved.From.Sub(reach) > time.Hour {
		err = fmt.Errorf("it reaches back to %s only: lookback is longer now", saved.From.UTC().Format(time.RFC3339))
	}
	if err == nil {
		if c == nil { // else they are counted already
			for result, n := range saved.Counts {
				d.self.Lines.WithLabelValues(result).Add(float64(n))
			}
		}
		d.log.Info("going on from the state", "source_name", name, "cursor", saved.Cursor)
		return saved
	}
	d.self.StateRebuilt.SetToCurrentTime()
	switch {
	case errors.Is(err, pipeline.ErrNoState) && st != nil:
		d.log.Info("no state yet: the look-back is read", "source_name", name, "path", st.Path)
	case errors.Is(err, pipeline.ErrForeignState) && c != nil:
		d.log.Info("its settings have changed: the look-back is read again", "source_name", name)
	case !errors.Is(err, pipeline.ErrNoState):
		d.log.Warn("the state cannot be gone on from: the look-back is read again", "source_name", name, "err", err)
	}
	return nil
}

func (d *daemon) load(p *pending, c *carried) (*pipeline.Saved, error) {
	if text := c.state(p.source.Name); text != nil {
		return pipeline.LoadState(text, p.fingerprint, p.feed, d.ranking())
	}
	if p.follow.Store == nil {
		return nil, pipeline.ErrNoState
	}
	return p.follow.Store.Load(p.feed, d.ranking())
}

// fingerprint names all settings that what is kept of a source depends on. Who
// takes its findings is among them: a new client wants the history too.
func fingerprint(cfg *config.Config, s *config.Source) (string, error) {
	var clients []string
	for i := range cfg.Clients {
		if c := &cfg.Clients[i]; len(c.Sources) == 0 || slices.Contains(c.Sources, s.Name) {
			clients = append(clients, withoutPassword(c.URL.URL)+" "+c.TenantID)
		}
	}
	text, err := json.Marshal([]any{
		withoutPassword(s.URL.URL), s.TenantID, s.Query, s.HostLabels, s.JailLabel, s.Format, s.Fields, s.Jails, s.Timezone, s.Timezones,
		cfg.FormatNamed(s.Format), cfg.Correlate, cfg.Offenders, clients, len(cfg.Sources) > 1,
		cfg.Enrich.CountryFile != "" || cfg.Enrich.ASNFile != "", // bans are counted by country as they come
	})
	if err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

func withoutPassword(u *url.URL) string {
	plain := *u
	plain.User = nil
	return plain.String()
}
