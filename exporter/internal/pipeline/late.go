package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// Late lines. A host that was cut off ships what it logged meanwhile with the
// old times, behind what was read already. Loki does not tell of such lines; it
// counts them. So what it counts is compared with what was read, and where it
// has more, that stream is read again from its last line on. Log time is per
// host, so nobody else's lines have settled the verdicts of the late one's.

// Recounter is a Source that can count entries without reading them, and read
// one stream alone. Entries of our own findings count nowhere.
type Recounter interface {
	// Count counts the entries of [from, to).
	Count(ctx context.Context, from, to time.Time) (uint64, error)
	// CountByStream counts them stream by stream. streams are those known.
	CountByStream(ctx context.Context, streams []string, from, to time.Time) ([]StreamCount, error)
	// StreamLines gives the lines of one stream, oldest first.
	StreamLines(ctx context.Context, stream string, from, to time.Time) iter.Seq2[Line, error]
	// HostLines gives the lines of one host, oldest first.
	HostLines(ctx context.Context, host string, from, to time.Time) iter.Seq2[Line, error]
}

// StreamCount is how many entries a stream has.
type StreamCount struct {
	Stream, Host string
	N            uint64
}

// tally is what was read of a stream.
type tally struct {
	Host string
	// Buckets count its lines by time, oldest first.
	Buckets []bucketCount
	// Last is the newest time of its lines, and At what they were then: equal
	// instants may be cut in two by the shipper.
	Last time.Time
	At   []uint64 `json:",omitempty"`
	// Surplus is what Loki counts beyond what it gives to read.
	Surplus uint64 `json:",omitempty"`
}

type bucketCount struct {
	Start int64 // in buckets since the epoch
	N     uint64
}

// add counts a line. Nearly all come in order.
func (y *tally) add(b int64) {
	i := len(y.Buckets)
	for i > 0 && y.Buckets[i-1].Start > b {
		i--
	}
	if i > 0 && y.Buckets[i-1].Start == b {
		y.Buckets[i-1].N++
		return
	}
	y.Buckets = slices.Insert(y.Buckets, i, bucketCount{b, 1})
}

// saw keeps the newest instant.
func (y *tally) saw(at time.Time, text string) {
	if at.Before(y.Last) {
		return
	}
	if at.After(y.Last) {
		y.Last, y.At = at, y.At[:0]
	}
	y.At = append(y.At, xxhash.Sum64String(text))
}

// since counts the lines from a bucket up to before another.
func (y *tally) since(from, to int64) (n uint64) {
	for i := len(y.Buckets) - 1; i >= 0 && y.Buckets[i].Start >= from; i-- {
		if y.Buckets[i].Start < to {
			n += y.Buckets[i].N
		}
	}
	return n
}

// has tells whether a line of the newest instant was read.
func (y *tally) has(text string) bool { return slices.Contains(y.At, xxhash.Sum64String(text)) }

// tallies are those of all streams, at one resolution.
type tallies struct {
	Bucket  time.Duration
	Streams map[string]*tally
}

// The resolutions: fine where lateness is usual, coarse where it is looked for
// now and then.
const (
	fineBucket   = time.Minute
	coarseBucket = time.Hour
)

func newTallies(bucket time.Duration) *tallies {
	return &tallies{Bucket: bucket, Streams: map[string]*tally{}}
}

func (ts *tallies) of(t time.Time) int64 { return t.UnixNano() / int64(ts.Bucket) }

func (ts *tallies) add(l *Line, remember bool) {
	y := ts.Streams[l.Stream]
	if y == nil {
		y = &tally{Host: l.Host}
		ts.Streams[l.Stream] = y
	}
	y.add(ts.of(l.At))
	if remember {
		y.saw(l.At, l.Text)
	}
}

// since counts all lines of a time, and what Loki is known to count beyond.
func (ts *tallies) since(from, to time.Time) (n uint64) {
	for _, y := range ts.Streams {
		n += y.since(ts.of(from), ts.of(to.Add(ts.Bucket-1))) + y.Surplus
	}
	return n
}

// forget drops what is older than a time.
func (ts *tallies) forget(before time.Time) {
	b := ts.of(before)
	for stream, y := range ts.Streams {
		i := 0
		for i < len(y.Buckets) && y.Buckets[i].Start < b {
			i++
		}
		y.Buckets = slices.Delete(y.Buckets, 0, i)
		if len(y.Buckets) == 0 {
			delete(ts.Streams, stream)
		}
	}
}

// replace puts the lines of a host that were counted anew into the place of its
// old ones.
func (ts *tallies) replace(host string, by *tallies) {
	maps.DeleteFunc(ts.Streams, func(stream string, y *tally) bool {
		is := y.Host == host
		if new := by.Streams[stream]; is && new != nil {
			new.Surplus = y.Surplus
		}
		return is
	})
	maps.Copy(ts.Streams, by.Streams)
}

// fetchLate reads the lines of the last MaxLateness before the cursor that
// Loki has and the feed has not. It is asked after the lines of the new window
// were fetched, and before they are taken: who ships in order has shipped all
// that is older than a line that can be seen.
func (w *Follower) fetchLate(ctx context.Context) ([]Line, error) {
	rc, ok := w.source.(Recounter)
	if !ok || w.uncounted() {
		return nil, nil
	}
	ts := w.feed.fine
	from := w.since(w.o.MaxLateness, ts)
	ts.forget(from)
	more, err := w.missing(ctx, rc, ts, from, w.cursor)
	var late []Line
	for _, c := range more {
		if _, known := w.excess[excessKey{c.Stream, ts.Bucket}]; known {
			continue // its host is going to be read again
		}
		var lines []Line
		if lines, err = w.after(ctx, rc, c.Stream, from); err != nil {
			break
		}
		rest := c.N - min(c.N, uint64(len(lines)))
		if len(lines) > 0 && lines[0].At.Before(w.newest(lines[0].Host)) { // another stream of the host was in time
			rest, lines = c.N, nil
		}
		late = append(late, lines...)
		if rest > 0 {
			// between lines that were read: what followed them was judged without
			w.outdated(c, ts, rest)
		}
	}
	if err != nil {
		return nil, w.uncountable(err)
	}
	return late, nil
}

// audit looks now and then for lines that are later than MaxLateness, one day
// of AuditWindow at a time, the newest first.
func (w *Follower) audit(ctx context.Context, now time.Time) error {
	rc, ok := w.source.(Recounter)
	if !ok || w.uncounted() || w.feed.coarse == nil || w.rebuild != nil || w.o.AuditWindow == 0 || now.Sub(w.audited) < w.o.AuditInterval {
		return nil
	}
	w.audited = now
	ts := w.feed.coarse
	begin := w.since(w.o.AuditWindow, ts)
	ts.forget(begin)
	to := w.cursor.Add(-w.o.MaxLateness).Add(-time.Duration(w.audits) * auditSlice).Truncate(ts.Bucket)
	if w.audits++; !to.Add(-auditSlice).After(begin) {
		w.audits = 0
	}
	from := to.Add(-auditSlice)
	if from.Before(begin) {
		from = begin
	}
	if !from.Before(to) {
		return nil
	}
	more, err := w.missing(ctx, rc, ts, from, to)
	if err != nil {
		return w.uncountable(err)
	}
	for _, c := range more {
		if _, known := w.excess[excessKey{c.Stream, ts.Bucket}]; !known {
			w.outdated(c, ts, c.N)
		}
	}
	return nil
}

// auditSlice is how much of the past is counted at once.
const auditSlice = 24 * time.Hour

// since is the beginning of a time before the cursor, in whole buckets that
// were read from their beginning.
func (w *Follower) since(length time.Duration, ts *tallies) time.Time {
	from := w.cursor.Add(-length)
	if from.Before(w.from) {
		from = w.from.Add(ts.Bucket - 1)
	}
	return from.Truncate(ts.Bucket)
}

// missing tells which streams have more entries in a time than were read, and
// how many more.
func (w *Follower) missing(ctx context.Context, rc Recounter, ts *tallies, from, to time.Time) (more []StreamCount, err error) {
	if !from.Before(to) {
		return nil, nil
	}
	n, err := rc.Count(ctx, from, to)
	if err != nil || n <= ts.since(from, to) {
		return nil, err
	}
	counts, err := rc.CountByStream(ctx, slices.Sorted(maps.Keys(ts.Streams)), from, to)
	for _, c := range counts {
		known := uint64(0)
		if y := ts.Streams[c.Stream]; y != nil {
			known = y.since(ts.of(from), ts.of(to.Add(ts.Bucket-1))) + y.Surplus
		}
		if c.N > known {
			c.N -= known
			more = append(more, c)
		}
	}
	return more, err
}

// uncountable tells a Loki that answers no such queries, which is read without
// them, from one that does not answer now. It is asked again after a while: a
// proxy may have said so while Loki was away.
func (w *Follower) uncountable(err error) error {
	if w.o.Fatal != nil && w.o.Fatal(err) {
		w.refused = time.Now()
		w.log.Warn("Loki does not count lines for us, so late ones are not found", "source_name", w.o.Name, "err", err, "again_in", uncountedPause)
		return nil
	}
	return fmt.Errorf("looking for late lines: %w", err)
}

// uncountedPause is how long Loki is not asked to count after it refused.
const uncountedPause = 10 * time.Minute

func (w *Follower) uncounted() bool {
	return !w.refused.IsZero() && time.Since(w.refused) < uncountedPause
}

// after reads a stream's lines that are newer than its last.
func (w *Follower) after(ctx context.Context, rc Recounter, stream string, from time.Time) (late []Line, err error) {
	y := w.feed.fine.Streams[stream]
	if y == nil {
		y = &tally{}
	}
	if y.Last.After(from) {
		from = y.Last
	}
	for l, err := range rc.StreamLines(ctx, stream, from, w.cursor) {
		if err != nil {
			return nil, err
		}
		if l.At.Equal(y.Last) && y.has(l.Text) {
			continue
		}
		late = append(late, l)
	}
	return late, nil
}

// newest is the time of a host's newest line, over all its streams.
func (w *Follower) newest(host string) (at time.Time) {
	for _, y := range w.feed.fine.Streams {
		if y.Host == host && y.Last.After(at) {
			at = y.Last
		}
	}
	return at
}

// What is held of a window while late lines are looked for. A longer one is
// that of a back-fill or of an outage: nothing there is as new as to be late.
const (
	maxHeld    = 100_000 // lines
	heldWindow = 10 * time.Minute
)

// read reads a window. Its lines wait until those that are late before it have
// been taken: also while the past is still being read, once that is so near
// that a line may be late and yet as its host's others would be.
func (w *Follower) read(ctx context.Context, to time.Time) error {
	past := !w.caughtUp && (w.o.Once || time.Since(to) > w.o.MaxLateness)
	if past || w.rebuild != nil || w.feed.fine == nil {
		return w.feed.Read(ctx, w.source, w.cursor, to)
	}
	var held []Line
	if to.Sub(w.cursor) <= heldWindow {
		for l, err := range w.source.Lines(ctx, w.cursor, to) {
			if err != nil {
				return err
			}
			if held = append(held, l); len(held) == maxHeld {
				break
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	late, err := w.fetchLate(ctx)
	if err != nil {
		return err
	}
	w.feed.addLate(late)
	w.late(len(late))
	if len(held) == maxHeld || to.Sub(w.cursor) > heldWindow {
		return w.feed.Read(ctx, w.source, w.cursor, to)
	}
	for _, l := range held {
		w.feed.Add(l)
	}
	w.feed.Flush()
	return nil
}

func (w *Follower) late(n int) {
	if w.o.Late != nil && n > 0 {
		w.o.Late(n)
	}
}

// addLate takes lines from behind what was read, each host's in their order.
func (f *Feed) addLate(late []Line) {
	slices.SortStableFunc(late, func(a, b Line) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), a.At.Compare(b.At))
	})
	for i := 0; i < len(late); {
		k := i + 1
		for k < len(late) && late[k].Host == late[i].Host && late[k].At.Equal(late[i].At) {
			k++
		}
		f.takeLoki(late[i:k])
		i = k
	}
}

// Lines that came too late to be taken in their order, into the midst of what
// was judged or behind what a host's silence settled: the history is read again.

// rebuild is a history being read again.
type rebuild struct {
	until  time.Time        // where the reading was
	was    correlate.Report // what was known then
	shown  correlate.Report // and with what counters may not fall below
	counts map[string]uint64
	origin map[string]uint64 // bans by country that were shown
}

// outdated notes that Loki counts more of a stream than was read, in the midst
// of what was read. Where a second reading brings nothing, Loki counts what it
// does not give.
func (w *Follower) outdated(c StreamCount, ts *tallies, n uint64) {
	w.log.Info("lines came too late to be taken in their order: the host's history is read again", "source_name", w.o.Name, "host", c.Host, "lines", n)
	if w.excess == nil {
		w.excess = map[excessKey]excess{}
	}
	w.excess[excessKey{c.Stream, ts.Bucket}] = excess{c.Host, n}
	if format := w.feed.o.Parser.Format; c.Host == "" || format != nil && format.NamesHost() {
		w.again = true // lines of one stream are several hosts'
		return
	}
	if w.stale == nil {
		w.stale = map[string]bool{}
	}
	w.stale[c.Host] = true
}

// rested tells that a history may be read again. While a backlog is still
// coming in it would be out of date at once, so there is a pause.
func (w *Follower) rested() bool {
	return w.rebuilt.IsZero() || w.cursor.Sub(w.rebuilt) >= w.o.AuditInterval
}

type excessKey struct {
	stream string
	bucket time.Duration
}

type excess struct {
	host string
	n    uint64
}

// settleExcess ends the search for what was missing, of one host or of all:
// where nothing was found, it is not there.
func (w *Follower) settleExcess(host string, all, found bool) {
	for key, x := range w.excess {
		if !all && x.host != host {
			continue
		}
		delete(w.excess, key)
		ts := w.feed.fine
		if key.bucket == coarseBucket {
			ts = w.feed.coarse
		}
		if found || ts == nil {
			continue
		}
		y := ts.Streams[key.stream]
		if y == nil {
			y = &tally{Host: x.host}
			ts.Streams[key.stream] = y
		}
		y.Surplus += x.n
	}
}

// readHosts reads the history of single hosts again, beside what is known, and
// puts what it shows in its place: hosts share nothing. Where that fails, all
// is as it was.
func (w *Follower) readHosts(ctx context.Context, now time.Time) error {
	rc, ok := w.source.(Recounter)
	if !ok {
		return nil
	}
	shown, was := w.shown(), w.feed.Engine().Report(false)
	for _, host := range slices.Sorted(maps.Keys(w.stale)) {
		again := w.feed.fresh()
		if err := again.Read(ctx, hostSource{rc, host}, w.from, w.cursor); err != nil {
			return fmt.Errorf("reading the history of host %s again: %w", host, err)
		}
		late := w.countMore(w.feed.Coverage(host), again.Coverage(host))
		w.feed.replace(host, again)
		w.settleExcess(host, false, late > 0)
		w.o.Recent.forget(host)
		delete(w.stale, host)
	}
	w.readBack()
	w.passSilence(now)
	w.settleOffsets(shown, was)
	w.rebuilt = w.cursor
	return nil
}

// hostSource is one host of a source.
type hostSource struct {
	Recounter
	host string
}

// Lines implements Source.
func (s hostSource) Lines(ctx context.Context, from, to time.Time) iter.Seq2[Line, error] {
	return s.HostLines(ctx, s.host, from, to)
}

// countMore counts the lines of a host that another reading found beyond those
// of the first.
func (w *Follower) countMore(was, is Coverage) (late int) {
	before, now := was.results(), is.results()
	for result, n := range now {
		for ; before[result] < n; n-- {
			w.count(result)
			late++
		}
	}
	w.late(late)
	return late
}

// settleOffsets compares what is known now with what was shown: counters go on
// where they were, and verdicts taken back are counted.
func (w *Follower) settleOffsets(shown, was correlate.Report) {
	now := w.feed.Engine().Report(false)
	w.offsets, _ = now.Behind(&shown)
	_, back := now.Behind(&was)
	if w.o.Rebuilt != nil {
		w.o.Rebuilt(back)
	}
}

// readBack has the sinks find out what was said before.
func (w *Follower) readBack() {
	for _, s := range w.sinks {
		if r, ok := s.(Rememberer); ok {
			r.ReadBack(w.from)
		}
	}
}

// startAgain reads the history from its beginning.
func (w *Follower) startAgain() {
	w.again, w.stale = false, nil
	w.rebuild = &rebuild{until: w.cursor, was: w.feed.Engine().Report(false), shown: w.shown(), counts: map[string]uint64{}}
	if b := w.feed.o.Board; b != nil {
		w.rebuild.origin = b.reset()
	}
	w.readBack()
	w.o.Recent.startAgain()
	w.feed = NewFeed(w.feed.o)
	w.feed.tell = w.count
	w.cursor, w.rebuilt = w.from, w.cursor
}

// finishAgain compares what is known now with what was shown, once the reading
// is where it was: counters go on where they were, and what was told wrongly is
// counted.
func (w *Follower) finishAgain() {
	r := w.rebuild
	if r == nil || w.cursor.Before(r.until) {
		return
	}
	w.rebuild = nil
	if b := w.feed.o.Board; b != nil {
		b.raise(r.origin)
	}
	w.o.Recent.finishAgain()
	late := 0
	for result, n := range r.counts {
		for ; w.counts[result] < n; late++ {
			w.count(result)
		}
	}
	w.late(late)
	w.settleExcess("", true, late > 0)
	w.settleOffsets(r.shown, r.was)
}

// shown is the state with what counters may not fall below.
func (w *Follower) shown() correlate.Report {
	r := w.feed.Engine().Report(false)
	r.Raise(&w.offsets)
	return r
}
