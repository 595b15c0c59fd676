package pipeline

import (
	"bytes"
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
	// Publish takes what was found in a source up to a time. It waits for no
	// server that is slow or hangs: it keeps the findings and offers them again.
	Publish(ctx context.Context, source string, upTo time.Time, findings []correlate.Finding, ranking []offender.Finding)
	// Taken tells up to which time all that was found in a source has reached
	// its end: the position from which a new start must read again.
	Taken(source string) time.Time
	// Flush waits until all has reached its end, or returns why it does not.
	Flush(ctx context.Context) error
}

// Rememberer is a Sink that can find out what it was given before, and then
// hands that on no second time.
type Rememberer interface {
	// ReadBack says that findings from a time on will be given again.
	ReadBack(from time.Time)
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
	// AuditWindow is how far back lines are looked for that are later still,
	// and AuditInterval the pause between two looks at a day of it. 0 for not.
	AuditWindow, AuditInterval time.Duration
	// Late, where set, is told of late lines, and Rebuilt of a history that is
	// read again because of them, and in the end of the verdicts taken back.
	Late    func(lines int)
	Rebuilt func(verdicts uint64)
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
	// Recent, where set, keeps the newest restores.
	Recent *Recent
	// Seen, where set, is shown all findings.
	Seen func([]correlate.Finding)
	// Steps, where set, are told of the past while it is read.
	Steps *Steps
	// Fatal tells errors that no retry can mend.
	Fatal func(error) bool
}

// Status is how far a follower has come.
type Status struct {
	Source   string
	Cursor   time.Time // everything before it has been read
	CaughtUp bool
	// Rebuilding says that the history is being read again, so that the ranking
	// lacks what follows.
	Rebuilding bool
	Started    time.Time // when the back-fill began
	From       time.Time // where it began
	Err        error     // of the last window, nil when it was read
	Lines      uint64
	Report     correlate.Report
	Committed  time.Time // up to when all sinks have what was found
	Unnamed    int       // streams that no label gives a host
	Keys       int       // ids in jails of hosts that state is kept of
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
	reading               bool // the feed is in the midst of a window
	caughtUp              bool // all up to now had been read once
	halt                  chan struct{}

	// What comes too late: see late.go.
	refused    time.Time       // when Loki last refused to count lines for us
	stale      map[string]bool // hosts whose history is to be read again
	again      bool            // the history is to be read again
	rebuild    *rebuild
	rebuilt    time.Time            // how far it had been read when it was last read again
	excess     map[excessKey]excess // what Loki counts beyond what was read
	offsets    correlate.Report     // what counters were shown beyond what is known
	audited    time.Time
	audits     int
	complained time.Time
	begun      bool // a window has been read
}

// NewFollower makes a follower; progress is called after each window.
func NewFollower(o FollowOptions, s Source, f *Feed, sinks []Sink, log *slog.Logger, progress func(Status)) *Follower {
	if o.Window == 0 {
		o.Window = 24 * time.Hour
	}
	w := &Follower{o: o, source: s, feed: f, sinks: sinks, log: log, progress: progress, counts: map[string]uint64{}, halt: make(chan struct{})}
	if r := o.Resume; r != nil {
		if o.Recent != nil {
			o.Recent.takeOver(r.Restores)
		}
		maps.Copy(w.counts, r.Counts)
		for _, n := range r.Counts {
			w.lines += n
		}
		w.offsets, w.caughtUp = r.Offsets, true
	}
	f.tell = w.count
	return w
}

// count counts a line by what became of it. Lines of a history that is read
// again were counted before.
func (w *Follower) count(result string) {
	if w.rebuild != nil {
		w.rebuild.counts[result]++
		return
	}
	w.lines++
	w.counts[result]++
	if tell := w.feed.o.Count; tell != nil {
		tell(result)
	}
}

// Run back-fills and follows until the context ends. It returns an error when
// Once is set and the past could not be read, or when reading can never work.
func (w *Follower) Run(ctx context.Context) error {
	w.started = time.Now()
	w.from = w.started.Add(-w.o.Lookback).Truncate(time.Millisecond) // as Loki counts
	w.cursor = w.from
	if r := w.o.Resume; r != nil {
		w.cursor, w.from, w.begun = r.Cursor, r.From, true
	}
	if w.o.Steps != nil {
		w.feed.steps = newStepper(w.o.Steps, w.feed.Engine(), w.cursor, w.passSilence)
	}
	defer w.leave(ctx)
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
		case <-w.halt:
			return nil
		case <-time.After(w.o.Poll):
		}
	}
}

// Halt ends the following between two windows, so that another follower can go
// on from State. It is called once.
func (w *Follower) Halt() { close(w.halt) }

func (w *Follower) halted() bool {
	select {
	case <-w.halt:
		return true
	default:
		return false
	}
}

// State is all that another follower needs to go on, as a Store keeps it. It is
// called when Run has ended. An error says that there is nothing to go on from.
func (w *Follower) State(fingerprint string) ([]byte, error) {
	if !w.begun || w.reading || w.rebuild != nil || w.Committed().Before(w.cursor) {
		return nil, ErrNoState
	}
	head := w.head()
	head.Fingerprint = fingerprint
	write, err := take(head, w.feed)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = write(&b)
	return b.Bytes(), err
}

func (w *Follower) head() stateHead {
	return stateHead{
		Cursor: w.cursor, From: w.from, Hour: w.feed.hour(), Counts: w.counts, Offsets: w.offsets, Restores: w.o.Recent.all(),
	}
}

// catchUp reads window after window up to now less the lag.
func (w *Follower) catchUp(ctx context.Context) error {
	end := time.Now().Add(-w.o.Lag).Truncate(time.Millisecond)
	for w.cursor.Before(end) && !w.halted() {
		to := w.cursor.Add(w.o.Window)
		if to.After(end) {
			to = end
		}
		if w.again && w.rested() {
			w.startAgain()
			continue
		}
		if len(w.stale) > 0 && w.rebuild == nil && w.rested() {
			if err := w.readHosts(ctx, end); err != nil {
				w.tell(err, false)
				return fmt.Errorf("source %s: %w", w.o.Name, err)
			}
		}
		w.save(false) // here the sinks have had the time of a poll to take what was found
		if w.feed.o.Board != nil {
			w.feed.o.Board.upTo(to)
		}
		w.reading = true
		if err := w.read(ctx, to); err != nil {
			w.tell(err, false)
			return fmt.Errorf("source %s: %w", w.o.Name, err)
		}
		w.cursor, w.begun, w.reading = to, true, false
		w.passSteps(to, !to.Before(end))
		if !to.Before(end) {
			w.passSilence(end)
		}
		w.finishAgain()
		w.publish(ctx)
		w.caughtUp = w.caughtUp || !to.Before(end)
		w.tell(nil, !to.Before(end))
	}
	return w.audit(ctx, end)
}

// Banned tells of those ids that are wanted where they are banned now. It is
// for whoever is told of the progress, while being told.
func (w *Follower) Banned(wanted map[string]bool) map[string][]correlate.Place {
	return w.feed.Engine().Banned(wanted)
}

// save keeps the state where it is time to, or at the end. What the sinks have
// not taken yet must be found again after a kill: until then the last state
// stands.
func (w *Follower) save(last bool) {
	st := w.o.Store
	if st == nil || w.o.Once || !w.begun || w.reading || w.rebuild != nil || w.Committed().Before(w.cursor) || !last && !st.due(time.Now()) {
		return
	}
	st.save(w.head(), w.feed, last)
}

// leaveWait bounds how long the end waits for the sinks. What is not taken by
// then is found again by the next start.
const leaveWait = 5 * time.Second

// leave ends the following.
func (w *Follower) leave(ctx context.Context) {
	if w.o.Once {
		return // finish has waited
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	if err := w.flush(ctx); err != nil {
		w.log.WarnContext(ctx, "ending before all findings were taken", "source_name", w.o.Name, "err", err)
	}
	if w.o.Store == nil {
		return
	}
	w.save(true)
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
	w.publish(ctx)
	w.tell(nil, true)
	w.complainOfSilence()
	return w.flush(ctx)
}

// flush waits until the sinks have taken all.
func (w *Follower) flush(ctx context.Context) error {
	var errs []error
	for _, s := range w.sinks {
		if err := s.Flush(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// publish gives the findings to every sink.
func (w *Follower) publish(ctx context.Context) {
	findings := w.feed.Engine().Findings()
	if w.o.Recent != nil {
		w.o.Recent.add(findings, w.feed.Engine())
	}
	if w.o.Seen != nil {
		w.o.Seen(findings)
	}
	var ranking []offender.Finding
	if b := w.feed.o.Board; b != nil {
		ranking = b.Findings()
	}
	for _, s := range w.sinks {
		s.Publish(ctx, w.o.Name, w.cursor, findings, ranking)
	}
}

// Committed tells up to which time all sinks have taken what was found: a
// position to begin from anew without losing a finding.
func (w *Follower) Committed() time.Time {
	at := w.cursor
	for _, s := range w.sinks {
		if taken := s.Taken(w.o.Name); taken.Before(at) {
			at = taken
		}
	}
	return at
}

func (w *Follower) tell(err error, caughtUp bool) {
	s := Status{
		Source: w.o.Name, Cursor: w.cursor, Committed: w.Committed(), CaughtUp: caughtUp && w.rebuild == nil, Rebuilding: w.rebuild != nil, Started: w.started, From: w.from, Err: err, Lines: w.lines,
		Unnamed: w.feed.Unnamed(), Keys: w.feed.Engine().Keys(),
	}
	if caughtUp && w.rebuild == nil {
		s.Report = w.shown()
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
