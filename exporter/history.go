package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"
)

// Bounds of what is written of the past.
const (
	historySeries = 10_000
	historyPoints = 2000 // of each series
)

// historyStep is the time between two points of a look-back: whole minutes.
func historyStep(lookback time.Duration) time.Duration {
	step := (lookback + historyPoints - 1) / historyPoints
	return (step + time.Minute - 1).Truncate(time.Minute)
}

// histories write the past to those receivers that want it.
type histories struct {
	all    []*publish.History // of each of cfg.Remotes, nil for none
	ledger *ledger
}

// addHistories makes a writer of the past for each receiver that wants it.
func (d *daemon) addHistories() error {
	d.histories = histories{all: make([]*publish.History, len(d.cfg.Remotes))}
	for i := range d.cfg.Remotes {
		r := &d.cfg.Remotes[i]
		if !r.History {
			continue
		}
		o, err := remoteOptions(r, d.log)
		if err != nil {
			return fmt.Errorf("remote_write[%d]: %w", i, err)
		}
		o.Name = d.remoteName(i) + "-history"
		d.receivers = append(d.receivers, o.HTTP)
		longest := d.longestLookback()
		h, err := publish.NewHistory(publish.HistoryOptions{
			Remote: d.self.CountRemote(o), MaxSeries: historySeries, Wait: time.Duration(r.QueueWait),
			Metrics:   metricsOptions(d.cfg),
			Forbidden: func(ctx context.Context) error { return forbidden(ctx, o, longest) },
			Written: func(source string) {
				if err := d.histories.ledger.note(ledgerKey(r), source, historyDone); err != nil {
					d.log.Warn("it could not be noted that the past was written: the next reading of the look-back writes it again", "err", err)
				}
			},
		})
		if err != nil {
			return fmt.Errorf("remote_write[%d]: %w", i, err)
		}
		d.histories.all[i] = h
	}
	return nil
}

func (d *daemon) longestLookback() (longest time.Duration) {
	for i := range d.cfg.Sources {
		longest = max(longest, time.Duration(d.cfg.Sources[i].Lookback))
	}
	return longest
}

// forbidden says that a receiver has scraped what would be written, as far as
// it tells.
func forbidden(ctx context.Context, o publish.RemoteOptions, lookback time.Duration) error {
	const own = `max by (job, instance) (max_over_time(up{job=%q,instance=%q}[%ds])) and on (job, instance) max_over_time(fail2ban_exporter_build_info[%ds])`
	seconds := int(lookback.Seconds())
	if targets := queried(ctx, o, fmt.Sprintf(own, o.Labels["job"], o.Labels["instance"], seconds, seconds)); len(targets) > 0 {
		return fmt.Errorf("%w, as %s", publish.ErrScraped, targets[0])
	}
	return nil
}

// stepsOf tells the receivers of a source's past, those that want it and have
// not had it; nil for none.
func (d *daemon) stepsOf(s *config.Source, resumed bool) *pipeline.Steps {
	var wanted []*publish.History
	for i, h := range d.histories.all {
		if h == nil {
			continue
		}
		key := ledgerKey(&d.cfg.Remotes[i])
		state := d.histories.ledger.state(key, s.Name)
		if state == historyDone {
			continue
		}
		if resumed && state == "" {
			d.log.Info("the past is written when it is read: a state file stands where the reading goes on; delete it to have the past written", "sink", d.remoteName(i), "source_name", s.Name)
			continue
		}
		if err := d.histories.ledger.note(key, s.Name, historyBegun); err != nil {
			d.log.Warn("the past is not written: it could not be remembered that it was", "sink", d.remoteName(i), "err", err)
			continue
		}
		wanted = append(wanted, h)
	}
	if len(wanted) == 0 {
		return nil
	}
	return &pipeline.Steps{
		Every: historyStep(time.Duration(s.Lookback)),
		At: func(at time.Time, r correlate.Report) {
			for _, h := range wanted {
				h.Add(s.Name, at, r)
			}
		},
		Done: func() {
			for _, h := range wanted {
				h.Done(s.Name)
			}
		},
	}
}

// writeHistories writes the past until closeHistories or, but for --once, until
// the context ends.
func (d *daemon) writeHistories(ctx context.Context) {
	if d.once {
		ctx = context.WithoutCancel(ctx)
	}
	var all sync.WaitGroup
	for _, h := range d.histories.all {
		if h != nil {
			all.Go(func() { h.Run(ctx) })
		}
	}
	all.Wait()
}

// writeMetrics has the past and the present written until the context ends.
// With --once the present comes after the past, and is its end.
func (d *daemon) writeMetrics(ctx context.Context, all *sync.WaitGroup) {
	if d.once {
		all.Go(func() {
			d.writeHistories(ctx)
			d.writeRemotes(ctx)
		})
		return
	}
	all.Go(func() { d.writeHistories(ctx) })
	all.Go(func() { d.writeRemotes(ctx) })
}

// closeHistories says that no more of the past will be read.
func (d *daemon) closeHistories() {
	for _, h := range d.histories.all {
		if h != nil {
			h.Close()
		}
	}
}

// historyDetail tells how far the past has been written to a receiver.
func (d *daemon) historyDetail(i int) string {
	h := d.histories.all[i]
	if h == nil {
		return ""
	}
	switch state := h.State(); {
	case state.Err != nil:
		return "; the past is not written: " + publish.Visible(state.Err.Error())
	case state.Done:
		return fmt.Sprintf("; the past was written, %d samples", state.Samples)
	case !state.UpTo.IsZero():
		return "; the past is being written, up to " + state.UpTo.UTC().Format(landingTime) + " UTC"
	}
	return ""
}

// What a ledger knows of a source's past at a receiver.
const (
	historyBegun = "begun"
	historyDone  = "written"
)

// ledger remembers to whom the past was written: beside the state file, so that
// a state that is thrown away does not have it written again.
type ledger struct {
	path string

	mu    sync.Mutex
	known map[string]map[string]string // by receiver and source
}

// ledgerSuffix is put behind the name of state.path. No source's own file, path.NAME,
// can have this name.
const ledgerSuffix = "-history.json"

// openLedger reads a ledger. One that cannot be read is as one that is not
// there; without a state file it lives as long as the program.
func openLedger(state string) *ledger {
	l := &ledger{known: map[string]map[string]string{}}
	if state == "" {
		return l
	}
	l.path = state + ledgerSuffix
	text, err := os.ReadFile(l.path)
	if err != nil || json.Unmarshal(text, &l.known) != nil || l.known == nil {
		l.known = map[string]map[string]string{}
	}
	return l
}

func (l *ledger) state(receiver, source string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[receiver][source]
}

// note remembers a state, in the file before it returns.
func (l *ledger) note(receiver, source, state string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[receiver] == nil {
		l.known[receiver] = map[string]string{}
	}
	l.known[receiver][source] = state
	if l.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(l.known, "", "  ")
	if err != nil {
		return err
	}
	temp := l.path + ".tmp"
	if err := os.WriteFile(temp, append(text, '\n'), stateMode); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if err != nil {
		return fmt.Errorf("%s: there is no such folder", filepath.Dir(l.path))
	}
	return os.Rename(temp, l.path)
}

// stateMode is for whoever runs the exporter alone.
const stateMode = 0o600

// ledgerKey names a receiver and our series there, without what may be secret.
func ledgerKey(r *config.RemoteWrite) string {
	u := receiverURL(r)
	plain := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return fmt.Sprintf("%s %v", plain.String(), remoteLabels(r))
}
