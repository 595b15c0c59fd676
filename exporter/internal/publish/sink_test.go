package publish

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"

	"github.com/google/go-cmp/cmp"
)

// restoresOf makes findings of a host, a second apart.
func restoresOf(host string, n int) (fs []correlate.Finding) {
	for i := range n {
		r := restoreOf(fmt.Sprint("192.0.2.", i))
		r.Host, r.Time = host, r.Time.Add(time.Duration(i)*time.Second)
		fs = append(fs, correlate.Finding{Kind: correlate.FindingRestore, Time: r.Time, Host: host, Jail: r.Jail, ID: r.ID, Restore: r})
	}
	return fs
}

// strict is a Loki that refuses as told and keeps what it takes.
type strict struct {
	answer func(entries []loki.PushEntry) error
	stored map[string]bool // by host and metadata
	pushes atomic.Int64
}

func (s *strict) Push(_ context.Context, streams []loki.PushStream) error {
	s.pushes.Add(1)
	if len(streams) != 1 {
		return errors.New("several streams in one push: errors get lost")
	}
	if s.stored == nil {
		s.stored = map[string]bool{}
	}
	var err error
	if s.answer != nil {
		err = s.answer(streams[0].Entries)
	}
	if err == nil {
		for _, e := range streams[0].Entries {
			s.stored[fmt.Sprint(streams[0].Labels, e)] = true
		}
	}
	return err
}

// What a 400 says was dropped is counted and not pushed again; an error that
// waiting mends keeps the findings.
func TestPushErrors(t *testing.T) {
	down := errors.New("connection refused")
	for _, c := range []struct {
		name    string
		err     error
		left    int
		result  string
		dropped map[string]int
	}{
		{name: "taken", result: BatchOK},
		{name: "down", err: down, left: 12, result: BatchFailed},
		{name: "unauthorized", err: &loki.Error{Op: "push", Status: 401, Body: "no org id"}, left: 12, result: BatchFailed},
		{
			name: "one too old", err: &loki.Error{Status: 400, Body: "entry for stream '{host=\"web1\"}' has timestamp too old: 2026-03-01T10:00:12Z, oldest acceptable timestamp is: 2026-03-02T10:00:00Z"},
			result: BatchPartial, dropped: map[string]int{DroppedTooOld: 1},
		},
		{
			name: "groups", err: fmt.Errorf("push: %w", &loki.Error{Status: 400, Words: "2 errors like: entry for stream '{}' has timestamp too new: 2027; 1 errors like: max entry size '262144' bytes exceeded for stream '{}' while adding an entry with length '300000' bytes; 3 errors like: entry for stream '{}' has timestamp too old: 2020, oldest acceptable timestamp is: 2026"}),
			result: BatchPartial, dropped: map[string]int{DroppedTooNew: 2, DroppedTooLarge: 1, DroppedTooOld: 3},
		},
		{
			name: "far behind", err: &loki.Error{Status: 400, Body: "entry with timestamp 2026-03-01 10:00:12 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: 2026-03-01T10:00:12Z, oldest acceptable timestamp is: 2026-03-01T20:00:00Z',\nuser 'fake', total ignored: 7 out of 12 for stream: {host=\"web1\"}"},
			result: BatchPartial, dropped: map[string]int{DroppedTooOld: 7},
		},
		{
			name: "far behind, and what the distributor refused", err: &loki.Error{Status: 400, Body: "ignored, reason: 'entry too far behind', total ignored: 7 out of 8 for stream: {host=\"web1\"}"},
			result: BatchPartial, dropped: map[string]int{DroppedTooOld: 11},
		},
		{name: "labels", err: &loki.Error{Status: 400, Body: "entry for stream '{...}' has 17 label names; limit 15"}, result: BatchPartial, dropped: map[string]int{DroppedLabels: 12}},
		{name: "rate", err: &loki.Error{Status: 400, Body: "ingestion rate limit exceeded for user fake"}, result: BatchPartial, dropped: map[string]int{DroppedRateLimited: 1}},
		{name: "liar", err: &loki.Error{Status: 400, Body: "too old, total ignored: 99999999999999999999 out of 12"}, result: BatchPartial, dropped: map[string]int{DroppedTooOld: 12}},
	} {
		t.Run(c.name, func(t *testing.T) {
			results, drops := map[string]int{}, map[string]int{}
			sink := NewLokiSink(&recorder{err: c.err}, LokiOptions{Batch: func(r string) { results[r]++ }, Dropped: func(r string, n int) { drops[r] += n }})
			sink.Publish(t.Context(), "main", at("23:00:00.000"), restoresOf("web1", 12), nil)
			err := sink.round(t.Context())
			if (err != nil) != (c.left > 0) || err != nil && !errors.Is(err, c.err) || len(sink.queue) != c.left {
				t.Fatalf("error %v with %d left, want %d", err, len(sink.queue), c.left)
			}
			if diff := cmp.Diff(map[string]int{c.result: 1}, results); diff != "" {
				t.Fatalf("results (-want +got):\n%s", diff)
			}
			if !maps.Equal(drops, c.dropped) {
				t.Fatalf("dropped %v, want %v", drops, c.dropped)
			}
			if taken := sink.Taken("main"); taken.IsZero() != (c.left > 0) {
				t.Fatalf("taken up to %v with %d left", taken, c.left)
			}
		})
	}
}

// A refusal in words that name no number is halved until who was meant stands
// alone: each finding is either taken or counted.
func TestUnknownWords(t *testing.T) {
	bad := []string{"192.0.2.3", "192.0.2.77"}
	isBad := func(e loki.PushEntry) bool {
		return slices.ContainsFunc(bad, func(id string) bool { return slices.Contains(e.Metadata, loki.Label{Name: "ip", Value: id}) })
	}
	server := &strict{answer: func(entries []loki.PushEntry) error {
		if slices.ContainsFunc(entries, isBad) {
			return &loki.Error{Status: 400, Body: "the line is not to my taste"}
		}
		return nil
	}}
	drops := map[string]int{}
	sink := NewLokiSink(server, LokiOptions{Dropped: func(r string, n int) { drops[r] += n }})
	publish(t, sink, "main", restoresOf("web1", 100))
	if len(server.stored) != 98 || !maps.Equal(drops, map[string]int{DroppedRejected: 2}) || server.pushes.Load() > 30 {
		t.Fatalf("%d stored, dropped %v, in %d pushes", len(server.stored), drops, server.pushes.Load())
	}
}

// Too large a push is made smaller until it fits, and what cannot is dropped.
func TestTooLargePushes(t *testing.T) {
	server := &strict{answer: func(entries []loki.PushEntry) error {
		size := 0
		for i := range entries {
			size += entrySize(&entries[i])
		}
		if size > 5000 {
			return &loki.Error{Status: http.StatusRequestEntityTooLarge, Body: "request body too large"}
		}
		return nil
	}}
	drops := map[string]int{}
	sink := NewLokiSink(server, LokiOptions{Dropped: func(r string, n int) { drops[r] += n }})
	fs := restoresOf("web1", 300)
	fs[7].ID = strings.Repeat("x", 6000)
	fs[7].Restore.ID = fs[7].ID
	publish(t, sink, "main", fs)
	if len(server.stored) != 299 || !maps.Equal(drops, map[string]int{DroppedTooLarge: 1}) {
		t.Fatalf("%d stored, dropped %v", len(server.stored), drops)
	}
}

// A rate limit delays and loses nothing, but for what can never pass; other
// hosts do not wait for it.
func TestRateLimit(t *testing.T) {
	allowed := 0
	server := &strict{answer: func(entries []loki.PushEntry) error {
		if entries[0].Line == "" || strings.Contains(entries[0].Line, "host=web2") {
			return nil
		}
		if len(entries) > 10 || allowed == 0 {
			return &loki.Error{Status: 429, Body: "Per stream rate limit exceeded"}
		}
		allowed--
		return nil
	}}
	drops := map[string]int{}
	sink := NewLokiSink(server, LokiOptions{Dropped: func(r string, n int) { drops[r] += n }})
	sink.Publish(t.Context(), "main", at("23:00:00.000"), append(restoresOf("web1", 50), restoresOf("web2", 5)...), nil)
	if err := sink.round(t.Context()); statusOf(err) != 429 || len(server.stored) != 5 {
		t.Fatalf("%v, %d stored; web2 must not wait for web1", err, len(server.stored))
	}
	for rounds := 0; len(sink.queue) > 0; rounds++ {
		if allowed = 2; rounds > 50 {
			t.Fatalf("%d are still there", len(sink.queue))
		}
		_ = sink.round(t.Context())
	}
	if len(server.stored) != 55 || len(drops) > 0 {
		t.Fatalf("%d of 55 stored, dropped %v", len(server.stored), drops)
	}
	sink.Publish(t.Context(), "main", at("23:00:00.000"), restoresOf("web1", 1), nil)
	for allowed = 0; len(sink.queue) > 0; {
		_ = sink.round(t.Context())
	}
	if !maps.Equal(drops, map[string]int{DroppedRateLimited: 1}) {
		t.Fatalf("dropped %v: what can never pass must not stand in the way for ever", drops)
	}
}

// hanging is a server that takes nothing until it is told to.
type hanging struct {
	strict
	up chan struct{}
}

func (h *hanging) Push(ctx context.Context, streams []loki.PushStream) error {
	select {
	case <-h.up:
		return h.strict.Push(ctx, streams)
	case <-time.After(time.Minute):
		return errors.New("time-out")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A server that hangs holds the reader up once and for QueueWait at most; the
// queue does not grow beyond its size, and each finding is taken or counted.
func TestServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &hanging{up: make(chan struct{})}
		drops := map[string]int{}
		o := LokiOptions{QueueSize: 100_000, QueueWait: 10 * time.Second, Pause: time.Second, BatchSize: 10_000, BatchWait: time.Second, Dropped: func(r string, n int) { drops[r] += n }}
		sink := NewLokiSink(server, o)
		ctx, cancel := context.WithCancel(t.Context())
		go sink.Run(ctx)
		start, given := time.Now(), 0
		for i := range 50 {
			sink.Publish(ctx, "main", at("23:00:00.000"), restoresOf(fmt.Sprint("host", i), 20), nil)
			if given += 20; sink.bytes > o.QueueSize {
				t.Fatalf("%d bytes wait", sink.bytes)
			}
			time.Sleep(time.Second)
		}
		if waited := time.Since(start) - 50*time.Second; waited > o.QueueWait+time.Second {
			t.Errorf("the reader was held up for %v", waited)
		}
		if !sink.Taken("main").IsZero() {
			t.Error("nothing was taken, and yet it is committed")
		}
		close(server.up)
		if err := sink.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if got := len(server.stored) + drops[DroppedQueueFull]; got != given || len(server.stored) == 0 || len(drops) != 1 {
			t.Errorf("%d stored and %v dropped of %d", len(server.stored), drops, given)
		}
		if sink.Taken("main").IsZero() {
			t.Error("all was taken, and yet nothing is committed")
		}
		cancel()
		synctest.Wait()
	})
}

// While the server takes what it is given, however slowly, nothing is dropped.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &strict{answer: func([]loki.PushEntry) error { time.Sleep(5 * time.Second); return nil }}
		o := LokiOptions{QueueSize: 50_000, QueueWait: 10 * time.Second, BatchSize: 10_000, Dropped: func(r string, n int) { t.Errorf("%d dropped: %s", n, r) }}
		sink := NewLokiSink(server, o)
		ctx, cancel := context.WithCancel(t.Context())
		go sink.Run(ctx)
		for i := range 10 {
			sink.Publish(ctx, "main", at("23:00:00.000"), restoresOf(fmt.Sprint("host", i), 50), nil)
		}
		if err := sink.Flush(ctx); err != nil || len(server.stored) != 500 {
			t.Errorf("%v, %d of 500 stored", err, len(server.stored))
		}
		cancel()
		synctest.Wait()
	})
}

// Findings wait for others to be pushed with, by time and by size.
func TestBatchWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &strict{}
		sink := NewLokiSink(server, LokiOptions{BatchWait: 3 * time.Second, BatchSize: 20_000})
		ctx, cancel := context.WithCancel(t.Context())
		go sink.Run(ctx)
		for range 4 {
			sink.Publish(ctx, "main", at("23:00:00.000"), restoresOf("web1", 1), nil)
			time.Sleep(500 * time.Millisecond)
		}
		if synctest.Wait(); server.pushes.Load() != 0 {
			t.Errorf("%d pushes before the time", server.pushes.Load())
		}
		time.Sleep(2 * time.Second)
		if synctest.Wait(); server.pushes.Load() != 1 {
			t.Errorf("%d pushes after it", server.pushes.Load())
		}
		sink.Publish(ctx, "main", at("23:00:00.000"), restoresOf("web1", 100), nil)
		if synctest.Wait(); server.pushes.Load() < 3 {
			t.Errorf("%d pushes: a full batch must not wait", server.pushes.Load())
		}
		cancel()
		synctest.Wait()
	})
}

// Flush tells of a server that takes nothing.
func TestFlushFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		sink := NewLokiSink(&recorder{err: down}, LokiOptions{Pause: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		go sink.Run(ctx)
		sink.Publish(ctx, "main", at("23:00:00.000"), restoresOf("web1", 1), nil)
		if err := sink.Flush(ctx); !errors.Is(err, down) {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
	})
}

// shelf is what a Loki has of our own, or why it does not show it.
type shelf struct {
	ids   []string
	errs  []error
	query string
}

func (s *shelf) Range(_ context.Context, query string, _, _ time.Time) iter.Seq2[loki.Entry, error] {
	s.query = query
	return func(yield func(loki.Entry, error) bool) {
		if len(s.errs) > 0 {
			err := s.errs[0]
			s.errs = s.errs[1:]
			yield(loki.Entry{}, err)
			return
		}
		for _, id := range s.ids {
			if !yield(loki.Entry{Line: id}, nil) {
				return
			}
		}
	}
}

// What the server has already, in whatever form, is not pushed again by a start
// without state; what it does not have is, however old. A server that shows
// nothing is not waited for.
func TestReadBack(t *testing.T) {
	down, denied := &loki.Error{Status: 503}, &loki.Error{Status: 403}
	fs := restoresOf("web1", 10)
	for name, c := range map[string]struct {
		errs   []error
		pushed int
	}{
		"read":   {pushed: 6},
		"again":  {errs: []error{down, down}, pushed: 6},
		"down":   {errs: []error{down, down, down}, pushed: 10},
		"denied": {errs: []error{denied}, pushed: 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, has := &strict{}, &shelf{errs: c.errs, ids: []string{"", "nonsense", strings.Repeat("f", 32)}}
				for i := range 3 {
					has.ids = append(has.ids, FindingID("main", &fs[2*i]))
				}
				asBan := fs[9]
				asBan.Kind = correlate.FindingBan
				has.ids = append(has.ids, FindingID("main", &asBan))
				sink := NewLokiSink(server, LokiOptions{Own: has, Pause: time.Second, Labels: map[string]string{"env": `a"b`}})
				sink.ReadBack(at("00:00:00.000"))
				ctx, cancel := context.WithCancel(t.Context())
				go sink.Run(ctx)
				sink.Publish(ctx, "main", at("23:00:00.000"), fs, nil)
				if err := sink.Flush(ctx); err != nil || len(server.stored) != c.pushed {
					t.Errorf("%v, %d pushed, want %d", err, len(server.stored), c.pushed)
				}
				if name == "read" { // the past is read again
					for _, f := range fs {
						has.ids = append(has.ids, FindingID("main", &f))
					}
					pushes := server.pushes.Load()
					sink.ReadBack(at("00:00:00.000"))
					sink.Publish(ctx, "main", at("23:00:00.000"), fs, nil)
					if err := sink.Flush(ctx); err != nil || server.pushes.Load() != pushes {
						t.Errorf("%v, %d more pushes of what is there", err, server.pushes.Load()-pushes)
					}
				}
				if want := `{env="a\"b", job="` + Job + `"} | line_format "{{.finding_id}}"`; has.query != want {
					t.Errorf("asked %s", has.query)
				}
				if err := loki.ValidateQuery(has.query); err != nil {
					t.Error(err)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}
