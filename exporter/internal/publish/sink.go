package publish

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// The defaults of LokiOptions; the batch's are Promtail's.
const (
	DefaultBatchSize = 1 << 20
	defaultQueueSize = 64 << 20
	defaultSink      = "loki"
)

// What became of a batch: the values of `result` on
// fail2ban_exporter_sink_batches_total.
const (
	BatchOK      = "ok"
	BatchPartial = "partial"
	BatchFailed  = "failed"
)

// BatchResults is the closed set of that label.
var BatchResults = []string{BatchOK, BatchPartial, BatchFailed}

// Pusher pushes streams to Loki and tries again by itself where that can help.
type Pusher interface {
	Push(ctx context.Context, streams []loki.PushStream) error
}

// LokiOptions say where and how findings are pushed.
type LokiOptions struct {
	// Name tells this sink from others, in metrics and logs. Default "loki".
	Name string
	// Labels are added to every stream; job and host stand above them.
	Labels map[string]string
	// BatchSize is the size in bytes of about one push. Default DefaultBatchSize.
	BatchSize int
	// BatchWait is how long findings wait for others before they are pushed.
	BatchWait time.Duration
	// QueueSize bounds the bytes of what waits to be pushed. Default 64 MiB.
	QueueSize int
	// QueueWait is how long Publish waits, while the queue is full, for a
	// server that takes nothing. Then the oldest in the queue are dropped.
	QueueWait time.Duration
	// Pause is how long a server that did not take a batch is left alone.
	Pause time.Duration
	// NameSource writes the source into the line and the metadata; set with
	// more than one source.
	NameSource bool
	// Redact, where set, hides whom the findings are about; it must have a key.
	Redact *Redactor
	// Own, where set, reads back what was pushed before: see ReadBack.
	Own Reader
	// Log is told what goes wrong. Default none.
	Log *slog.Logger
	// Batch, where set, is told what became of each batch.
	Batch func(result string)
	// Dropped, where set, is told how many entries will never be in Loki.
	Dropped func(reason string, n int)
}

// LokiSink pushes findings back to Loki, one stream for each host (rule 28).
// The same finding always yields the same bytes, so pushing twice is harmless.
//
// Publish queues; Run pushes. So a server that is slow, or hangs, holds up
// neither the reading of the log nor the metrics.
//
// Each push holds one stream: of several, an ingester tells the error of the
// last one alone, and none where the last was taken, so that what it dropped
// of the others would be in no counter (docs/design/003-push.md).
type LokiSink struct {
	o LokiOptions
	p Pusher

	mu     sync.Mutex
	queue  []queued // in the order in which they came
	bytes  int      // of the queue
	flying int      // so many at its front are being pushed
	oldest time.Time
	next   uint64            // number of the next one queued
	said   map[string][]mark // by source: what was queued when
	taken  map[string]time.Time
	moved  time.Time // when the server last took something, or had nothing to take
	stuck  bool      // it has not for QueueWait
	failed error     // of the last round
	rounds uint64
	signal chan struct{} // closed and made anew when any of this changes

	unread   bool // what was said before shall be read
	readFrom time.Time
	tries    int
	known    []uint64             // ids of what was said before
	ranked   map[string]time.Time // of each source, how far its ranking was said before

	fit     map[string]int // bytes a push of a stream may have, where the server refused more
	strikes map[string]int // of a stream: how often its first entry alone was refused for its rate
}

// queued is an entry that waits.
type queued struct {
	number uint64
	key    string // of the stream
	labels map[string]string
	entry  loki.PushEntry
	size   int
	ids    []uint64 // short ones, of which none must have been said before

	ranking bool   // of a full hour
	source  string // of the ranking, where there are several
}

// mark says that everything of a source up to a time has a number below next.
type mark struct {
	next uint64
	upTo time.Time
}

// NewLokiSink makes a sink that pushes through p.
func NewLokiSink(p Pusher, o LokiOptions) *LokiSink {
	o.Name = cmp.Or(o.Name, defaultSink)
	o.BatchSize = cmp.Or(o.BatchSize, DefaultBatchSize)
	o.QueueSize = cmp.Or(o.QueueSize, defaultQueueSize)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Batch == nil {
		o.Batch = func(string) {}
	}
	if o.Dropped == nil {
		o.Dropped = func(string, int) {}
	}
	return &LokiSink{
		o: o, p: p, said: map[string][]mark{}, taken: map[string]time.Time{}, signal: make(chan struct{}),
		fit: map[string]int{}, strikes: map[string]int{},
	}
}

// Name is the sink's name.
func (s *LokiSink) Name() string { return s.o.Name }

// Publish queues what was found in a source up to a time. It waits only where
// the queue is full and the server takes what it is given.
func (s *LokiSink) Publish(ctx context.Context, source string, upTo time.Time, fs []correlate.Finding, ranking []offender.Finding) {
	for _, f := range byHost(fs) {
		e, id := s.entry(source, &f)
		s.add(ctx, s.queued(s.labels(f.Host), e, s.idsOf(source, &f, id)))
	}
	if len(ranking) > 0 {
		labels := s.labels("")
		delete(labels, "host")
		for _, f := range byRank(ranking) {
			e, id := s.rankingEntry(source, &f)
			n, _ := shortID(id)
			q := s.queued(labels, e, []uint64{n})
			if s.o.NameSource {
				q.source = limited(valid(source))
			}
			if q.ranking = f.Reached == offender.None; !q.ranking {
				q.ids = append(q.ids, becameID(q.source, metadataOf(&e, "ip"), f.Reached.String()))
			}
			s.add(ctx, q)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.said[source]; len(at) > 0 && at[len(at)-1].next == s.next {
		at[len(at)-1].upTo = upTo
	} else {
		s.said[source] = append(at, mark{s.next, upTo})
	}
	s.commit()
}

// Taken tells up to which time everything found in a source has been taken,
// or dropped and counted.
func (s *LokiSink) Taken(source string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[source]
}

func (s *LokiSink) queued(labels map[string]string, e loki.PushEntry, ids []uint64) queued {
	return queued{key: labels["host"], labels: labels, entry: e, size: entrySize(&e), ids: ids}
}

func (s *LokiSink) add(ctx context.Context, q queued) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.oldest = time.Now()
		s.moved = s.oldest
	}
	for s.bytes+q.size > s.o.QueueSize && len(s.queue) > 0 && !s.stuck && ctx.Err() == nil {
		if left := time.Until(s.moved.Add(s.o.QueueWait)); left > 0 {
			s.wait(ctx, left)
			continue
		}
		s.stuck = true
		s.o.Log.Error("the server takes no findings; the oldest that wait are dropped", "sink", s.o.Name, "err", s.failed)
	}
	q.number = s.next
	s.next++
	s.queue = append(s.queue, q)
	s.bytes += q.size
	s.trim()
	s.changed()
}

// trim drops the oldest of a queue that is too long, but for those that are
// being pushed now.
func (s *LokiSink) trim() {
	n := s.flying
	for ; s.bytes > s.o.QueueSize && n < len(s.queue)-1; n++ {
		s.bytes -= s.queue[n].size
	}
	if n > s.flying {
		s.o.Dropped(DroppedQueueFull, n-s.flying)
		s.queue = slices.Delete(s.queue, s.flying, n)
	}
}

// wait waits for a change, with s.mu given up meanwhile.
func (s *LokiSink) wait(ctx context.Context, d time.Duration) {
	signal := s.signal
	s.mu.Unlock()
	defer s.mu.Lock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-signal:
	case <-t.C:
	case <-ctx.Done():
	}
}

// changed tells who waits.
func (s *LokiSink) changed() {
	close(s.signal)
	s.signal = make(chan struct{})
}

// commit moves on what has been taken of each source.
func (s *LokiSink) commit() {
	first := s.next
	if len(s.queue) > 0 {
		first = s.queue[0].number
	}
	for source, at := range s.said {
		n := 0
		for ; n < len(at) && at[n].next <= first; n++ {
			s.taken[source] = at[n].upTo
		}
		s.said[source] = at[n:]
	}
}

// Run pushes what is queued until the context ends.
func (s *LokiSink) Run(ctx context.Context) {
	for s.ready(ctx) {
		if !s.readBack(ctx) {
			sleep(ctx, s.o.Pause)
			continue
		}
		if err := s.round(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("findings were not taken; they will be offered again", "sink", s.o.Name, "err", err)
			sleep(ctx, s.o.Pause)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ready waits for a batch, by size or time, and tells whether there is one.
func (s *LokiSink) ready(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil {
		switch left := time.Until(s.oldest.Add(s.o.BatchWait)); {
		case len(s.queue) == 0:
			s.wait(ctx, time.Hour)
		case s.bytes >= s.o.BatchSize || left <= 0:
			return true
		default:
			s.wait(ctx, left)
		}
	}
	return false
}

// Flush waits until all that is queued has been taken. It returns an error
// when the server does not take it.
func (s *LokiSink) Flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = time.Time{} // now
	s.changed()
	for end, round := s.next, s.rounds; s.pending(end); {
		switch {
		case s.rounds > round+1 && s.failed != nil: // one that began after this call has failed
			return s.failed
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.wait(ctx, time.Hour)
	}
	return nil
}

// pending tells whether anything below a number still waits or is under way.
func (s *LokiSink) pending(end uint64) bool {
	first := s.next
	if len(s.queue) > 0 {
		first = s.queue[0].number
	}
	return first < end
}

// round pushes what is queued, up to half of what the queue may hold, stream
// by stream.
func (s *LokiSink) round(ctx context.Context) error {
	work := s.takeOff()
	streams := map[string][]int{} // by key, the places in work
	var keys []string
	done := make([]bool, len(work))
	for i := range work {
		if done[i] = s.isKnown(&work[i]); done[i] {
			continue
		}
		key := work[i].key
		if _, ok := streams[key]; !ok {
			keys = append(keys, key)
		}
		streams[key] = append(streams[key], i)
	}
	var errs []error
	for _, key := range keys {
		entries := make([]queued, 0, len(streams[key]))
		for _, i := range streams[key] {
			entries = append(entries, work[i])
		}
		n, err := s.pushStream(ctx, key, entries)
		for _, i := range streams[key][:n] {
			done[i] = true
		}
		if err != nil {
			errs = append(errs, err)
			if !ofStream(err) {
				break // the others would fare no better
			}
		}
	}
	err := errors.Join(errs...)
	s.land(done, err)
	return err
}

// takeOff gives what a round pushes.
func (s *LokiSink) takeOff() []queued {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for s.flying = 0; s.flying < len(s.queue); s.flying++ {
		if size += s.queue[s.flying].size; s.flying > 0 && size > s.o.QueueSize/2 {
			break
		}
	}
	return slices.Clone(s.queue[:s.flying])
}

// land takes what a round has done out of the queue.
func (s *LokiSink) land(done []bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := 0
	for i, q := range s.queue {
		if i < len(done) && done[i] {
			s.bytes -= q.size
			continue
		}
		s.queue[kept] = q
		kept++
	}
	clear(s.queue[kept:])
	s.queue = s.queue[:kept]
	s.flying, s.failed = 0, err
	s.rounds++
	s.trim()
	s.commit()
	s.changed()
}

// progressed notes that the server has taken something.
func (s *LokiSink) progressed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved, s.stuck = time.Now(), false
}

// byHost gives what is pushed, by host and then in the order of reports.
func byHost(fs []correlate.Finding) []correlate.Finding {
	out := make([]correlate.Finding, 0, len(fs))
	for _, f := range fs {
		if f.Kind != correlate.FindingEvent {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b correlate.Finding) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), correlate.Compare(a, b))
	})
	return out
}

// byRank gives the ranking's findings in the order in which they are pushed.
func byRank(fs []offender.Finding) []offender.Finding {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b offender.Finding) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Row.Rank, b.Row.Rank), cmp.Compare(a.Row.ID, b.Row.ID))
	})
	return fs
}
