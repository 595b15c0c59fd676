package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Sink takes findings. It is idempotent: the same findings twice do no harm.
type Sink interface {
	Name() string
	// Publish returns an error when the findings must be offered again.
	Publish(ctx context.Context, source string, findings []correlate.Finding) error
}

// RankingSink is a Sink that takes the ranking's findings too.
type RankingSink interface {
	PublishRanking(ctx context.Context, source string, findings []offender.Finding) error
}

// FollowOptions say how a source is read. The zero value of a duration is not
// a default: config has those.
type FollowOptions struct {
	// Name is the source's.
	Name string
	// Lookback is how far back the back-fill begins.
	Lookback time.Duration
	// Lag is how far behind the clock the windows end: lines that Loki has not
	// yet taken in would be missed.
	Lag time.Duration
	// Poll is the pause between two windows.
	Poll time.Duration
	// MaxLateness is how long a host must have been silent before its silence
	// settles what waits for its later lines.
	MaxLateness time.Duration
	// Window is the length of the back-fill's windows.
	Window time.Duration
	// Once ends after the back-fill, with everything settled.
	Once bool
	// Query is named in messages.
	Query string
	// Store, where set, keeps the state. It is not used with Once, which
	// settles what a longer log would not have settled yet.
	Store *Store
	// Resume is where to go on, as Store.Load gave it; nil begins with the past.
	Resume *Saved
	// Fatal tells errors that no retry can mend.
	Fatal func(error) bool
}

// Status is how far a follower has come.
type Status struct {
	Source   string
	Cursor   time.Time // everything before it has been read
	CaughtUp bool
	Started  time.Time // when the back-fill began
	From     time.Time // where it began
	Err      error     // of the last window, nil when it was read
	Lines    uint64
	Report   correlate.Report
	Unnamed  int // streams that no label gives a host
	Keys     int // ids in jails of hosts that state is kept of
}

// Follower reads one source: the past first, then what comes.
type Follower struct {
	o        FollowOptions
	source   Source
	feed     *Feed
	sinks    []Sink
	log      *slog.Logger
	progress func(Status)

	cursor, from, started time.Time
	counts                map[string]uint64 // of lines by result
	lines                 uint64
	behind                bool // the feed knows more than the sinks have taken
	pending               []correlate.Finding
	ranked                []offender.Finding // pending, too
	complained            time.Time
	begun                 bool // a window has been read
}

// NewFollower makes a follower; progress is called after each window.
func NewFollower(o FollowOptions, s Source, f *Feed, sinks []Sink, log *slog.Logger, progress func(Status)) *Follower {
	if o.Window == 0 {
		o.Window = 24 * time.Hour
	}
	w := &Follower{o: o, source: s, feed: f, sinks: sinks, log: log, progress: progress, counts: map[string]uint64{}}
	if r := o.Resume; r != nil {
		maps.Copy(w.counts, r.Counts)
		for _, n := range r.Counts {
			w.lines += n
		}
	}
	count := f.o.Count
	f.o.Count = func(result string) {
		w.lines++
		w.counts[result]++
		if count != nil {
			count(result)
		}
	}
	return w
}

// Run back-fills and follows until the context ends. It returns an error when
// Once is set and the past could not be read, or when reading can never work.
func (w *Follower) Run(ctx context.Context) error {
	w.started = time.Now()
	w.from = w.started.Add(-w.o.Lookback)
	w.cursor = w.from
	if r := w.o.Resume; r != nil {
		w.cursor, w.from, w.begun = r.Cursor, r.From, true
	}
	defer w.leave()
	for {
		err := w.catchUp(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (w.o.Once || !w.begun && w.o.Fatal != nil && w.o.Fatal(err)):
			return err // nothing was ever read: the configuration is wrong
		case err != nil:
			w.log.Error("Loki cannot be read; trying again", "source_name", w.o.Name, "err", err, "cursor", w.cursor)
		case w.o.Once:
			return w.finish(ctx)
		}
		w.complainOfSilence()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.o.Poll):
		}
	}
}

// catchUp reads window after window up to now less the lag.
func (w *Follower) catchUp(ctx context.Context) error {
	end := time.Now().Add(-w.o.Lag)
	for w.cursor.Before(end) {
		to := w.cursor.Add(w.o.Window)
		if to.After(end) {
			to = end
		}
		if w.feed.o.Board != nil {
			w.feed.o.Board.upTo(to)
		}
		w.behind = true
		if err := w.feed.Read(ctx, w.source, w.cursor, to); err != nil {
			w.tell(err, false)
			return fmt.Errorf("source %s: %w", w.o.Name, err)
		}
		w.cursor, w.begun = to, true
		if !to.Before(end) {
			w.passSilence(end)
		}
		w.behind = w.publish(ctx) != nil // logged; offered again with the next window
		w.save(false)
		w.tell(nil, !to.Before(end))
	}
	return nil
}

// save keeps the state where it is time to, or at the end. What the sinks have
// not taken yet must be found again after a kill: until then the last state
// stands.
func (w *Follower) save(last bool) {
	st := w.o.Store
	if st == nil || w.o.Once || w.behind || !last && !st.due(time.Now()) {
		return
	}
	st.save(stateHead{Cursor: w.cursor, From: w.from, Hour: w.feed.hour(), Counts: w.counts}, w.feed, last)
}

// leave ends the following.
func (w *Follower) leave() {
	if w.o.Store == nil {
		return
	}
	if w.begun {
		w.save(true)
	}
	w.o.Store.wait()
}

// passSilence lets the log time of silent hosts pass.
func (w *Follower) passSilence(now time.Time) {
	e := w.feed.Engine()
	settled := now.Add(-w.o.MaxLateness)
	for _, host := range e.Hosts() {
		if e.HostClock(host).Before(settled) {
			e.Advance(host, settled)
		}
	}
}

// finish settles everything as of the newest line.
func (w *Follower) finish(ctx context.Context) error {
	e := w.feed.Engine()
	e.Finish(e.Newest())
	if err := w.publish(ctx); err != nil {
		return err
	}
	w.tell(nil, true)
	w.complainOfSilence()
	return nil
}

// maxPending bounds the findings kept while no sink takes them.
const maxPending = 1 << 18

// publish offers the findings to every sink. What a sink does not take is
// offered again with the next window.
func (w *Follower) publish(ctx context.Context) error {
	w.pending = append(w.pending, w.feed.Engine().Findings()...)
	err := offer(ctx, w, &w.pending, func(s Sink) error { return s.Publish(ctx, w.o.Name, w.pending) })
	if b := w.feed.o.Board; b != nil {
		w.ranked = append(w.ranked, b.Findings()...)
	}
	return errors.Join(err, offer(ctx, w, &w.ranked, func(s Sink) error {
		if r, ok := s.(RankingSink); ok {
			return r.PublishRanking(ctx, w.o.Name, w.ranked)
		}
		return nil
	}))
}

// offer offers what is pending to every sink.
func offer[T any](ctx context.Context, w *Follower, pending *[]T, take func(Sink) error) error {
	if len(*pending) == 0 {
		return nil
	}
	var errs []error
	for _, s := range w.sinks {
		if err := take(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name(), err))
			w.log.ErrorContext(ctx, "findings were not taken; they will be offered again", "sink", s.Name(), "findings", len(*pending), "err", err)
		}
	}
	if len(errs) == 0 {
		*pending = nil
	} else if extra := len(*pending) - maxPending; extra > 0 {
		w.log.ErrorContext(ctx, "findings dropped: no sink takes them", "findings", extra)
		*pending = (*pending)[extra:]
	}
	return errors.Join(errs...)
}

func (w *Follower) tell(err error, caughtUp bool) {
	s := Status{
		Source: w.o.Name, Cursor: w.cursor, CaughtUp: caughtUp, Started: w.started, From: w.from, Err: err, Lines: w.lines,
		Unnamed: w.feed.Unnamed(), Keys: w.feed.Engine().Keys(),
	}
	if caughtUp {
		s.Report = w.feed.Engine().Report(false)
	}
	w.progress(s)
}

// complainOfSilence says once a minute that the query matches nothing.
func (w *Follower) complainOfSilence() {
	if w.lines > 0 || time.Since(w.complained) < time.Minute {
		return
	}
	w.complained = time.Now()
	w.log.Warn("no stream matches the query, so there is nothing to show; see which labels your fail2ban logs have and set sources.query to them",
		"source_name", w.o.Name, "query", w.o.Query, "since", w.from.UTC().Format(time.RFC3339),
		"try", `{job=~".*fail2ban.*"}, {filename=~".*fail2ban.*"}, {unit="fail2ban.service"}, {container=~".*fail2ban.*"}`)
}
