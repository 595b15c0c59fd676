package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// DroppedSeries is the reason of a series of the history beyond the most there may be.
const DroppedSeries = "series_limit"

// HistoryOptions say how the past is written.
type HistoryOptions struct {
	// Remote is the receiver. Its Gather, Interval and Native are not used.
	Remote RemoteOptions
	// Metrics bound the series, as for the metrics of the present.
	Metrics MetricsOptions
	// MaxSeries bounds them once more: receivers count them too.
	MaxSeries int
	// Wait is how long Add waits for a receiver that takes nothing.
	Wait time.Duration
	// Forbidden, where set, says why the past must not be written.
	Forbidden func(ctx context.Context) error
	// Written, where set, is told that the past of a source was written whole.
	Written func(source string)
}

// History writes the past of all sources to one receiver, at its own times and
// in order. What it has not written yet is a few reports, and one request.
type History struct {
	o       HistoryOptions
	w       *RemoteWriter
	metrics map[string]*Metrics // by source
	points  chan historyPoint
	gaveUp  atomic.Bool
	close   sync.Once

	series  map[string]bool // true: written, false: beyond the bound
	own     int             // of those written
	batch   []remoteSample
	refused int // requests in a row

	mu    sync.Mutex
	state HistoryState
}

type historyPoint struct {
	source string
	at     time.Time
	report correlate.Report
	last   bool
}

// HistoryState is how far the history has come.
type HistoryState struct {
	UpTo    time.Time // of the past that has been written
	Samples int
	Done    bool  // all that there was to write
	Err     error // why it was given up
}

// maxHistoryPoints is how many reports wait to be written.
const maxHistoryPoints = 8

// maxRefused is how many requests in a row may be refused before the history is
// given up: the rest would be refused too.
const maxRefused = 3

// NewHistory makes a writer of the past; Run starts it.
func NewHistory(o HistoryOptions) (*History, error) {
	w, err := NewRemoteWriter(o.Remote)
	if err != nil {
		return nil, err
	}
	return &History{o: o, w: w, metrics: map[string]*Metrics{}, points: make(chan historyPoint, maxHistoryPoints), series: map[string]bool{}}, nil
}

// Add takes what was known of a source at a time. Times of a source only go on.
func (h *History) Add(source string, at time.Time, r correlate.Report) {
	if len(r.Hosts) > 0 {
		h.give(historyPoint{source: source, at: at, report: r})
	}
}

// Done says that a source's past has been read.
func (h *History) Done(source string) { h.give(historyPoint{source: source, last: true}) }

// give waits for a receiver that is slow, and gives up one that takes nothing:
// the reading of the past, and with it the metrics, shall not wait for it.
func (h *History) give(p historyPoint) {
	if h.gaveUp.Load() {
		return
	}
	patience := time.NewTimer(h.o.Wait)
	defer patience.Stop()
	select {
	case h.points <- p:
	case <-patience.C:
		h.giveUp(fmt.Errorf("the receiver took nothing for %v", h.o.Wait))
	}
}

// Close says that no more will come. Nothing may be added after it.
func (h *History) Close() { h.close.Do(func() { close(h.points) }) }

// Run writes what is added until Close, or until the context ends.
func (h *History) Run(ctx context.Context) {
	if h.o.Forbidden != nil {
		if err := h.o.Forbidden(ctx); err != nil {
			h.giveUp(err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			h.gaveUp.Store(true)
			return
		case p, ok := <-h.points:
			switch {
			case !ok:
				h.flush(ctx)
				return
			case h.gaveUp.Load():
			case p.last:
				h.end(ctx, p.source)
			default:
				h.write(ctx, &p)
			}
		}
	}
}

// end writes what is left of a source.
func (h *History) end(ctx context.Context, source string) {
	h.flush(ctx)
	if h.gaveUp.Load() || ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	h.state.Done = true
	state := h.state
	h.mu.Unlock()
	h.w.o.Log.Info("the past was written", "sink", h.w.o.Name, "source_name", source, "samples", state.Samples, "up_to", state.UpTo.UTC().Format(time.RFC3339))
	if h.o.Written != nil {
		h.o.Written(source)
	}
}

// write makes samples of a point and writes those requests that are full.
func (h *History) write(ctx context.Context, p *historyPoint) {
	for _, s := range h.samples(p) {
		if !h.admit(s.key) {
			h.w.dropped(DroppedSeries, 1)
			continue
		}
		if len(h.batch) >= h.w.o.MaxSamples {
			h.flush(ctx)
		}
		h.batch = append(h.batch, s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state.UpTo, h.state.Done = p.at, false
}

func (h *History) samples(p *historyPoint) []remoteSample {
	m := h.metrics[p.source]
	if m == nil {
		o := h.o.Metrics
		o.PastOnly = true
		m = NewMetrics(o, nil)
		h.metrics[p.source] = m
	}
	m.Set(&View{At: p.at, Sources: []SourceReport{{Name: p.source, Report: p.report}}, CaughtUp: true})
	samples, err := samplesOf(m.served.Load().plain, p.at, h.w.o.Labels, false)
	if err != nil {
		h.w.o.Log.Warn("not all of the past could be read", "sink", h.w.o.Name, "err", err)
	}
	return samples
}

// admit tells whether a series is among those that are written: the first ones
// that come.
func (h *History) admit(key string) bool {
	in, known := h.series[key]
	if !known {
		in = h.own < h.o.MaxSeries
		h.series[key] = in
		if in {
			h.own++
		}
	}
	return in
}

// flush writes the request that has been gathered.
func (h *History) flush(ctx context.Context) {
	if len(h.batch) == 0 || h.gaveUp.Load() {
		h.batch = h.batch[:0]
		return
	}
	n := len(h.batch)
	trying, cancel := context.WithTimeout(ctx, h.w.o.Budget)
	defer cancel()
	reason, err := h.w.write(trying, h.batch)
	clear(h.batch)
	h.batch = h.batch[:0]
	switch {
	case reason == "":
		h.refused = 0
		h.mu.Lock()
		h.state.Samples += n
		h.mu.Unlock()
	case ctx.Err() != nil: // the program ends
	case reason == DroppedRejected:
		h.refused++
		if h.refused >= maxRefused {
			h.giveUp(fmt.Errorf("%w; the receiver must take samples as old as the look-back: out_of_order_time_window, see docs/remote-write.md", err))
		}
	default:
		h.giveUp(err)
	}
}

// giveUp ends the history of this receiver. All else goes on.
func (h *History) giveUp(err error) {
	if h.gaveUp.Swap(true) {
		return
	}
	h.mu.Lock()
	h.state.Err = err
	h.mu.Unlock()
	h.w.o.Log.Warn("the past is not written", "sink", h.w.o.Name, "err", err)
}

// ErrScraped is why the past of metrics that are scraped is not written.
var ErrScraped = errors.New("the receiver has scraped these metrics itself")

// State tells how far the history has come.
func (h *History) State() HistoryState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}
