package loki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/dskit/backoff"
	promconfig "github.com/prometheus/common/config"
	"pgregory.net/rapid"
)

// server is a Loki with moods: limits of its own, windows it refuses, answers
// that break. It promises nothing of the order of streams.
type server struct {
	mu       sync.Mutex
	streams  map[string][]Entry // by host
	limit    int
	length   time.Duration // of a query
	proto    bool
	publish  bool          // its limits
	slow     time.Duration // longer windows time out, while trouble lasts
	trouble  int           // answers that will fail yet
	rand     *rand.Rand
	requests int
	sent     int // entries
	running  atomic.Int32
	widest   atomic.Int32
	pause    time.Duration
	damaged  int // good answers spoilt
	windows  []time.Duration
	hang     chan struct{}      // the first request for entries waits for its end
	message  int                // larger answers get lost between Loki's parts
	lost     int                // of these
	ends     func(e Entry) bool // tells the last entries of chunks, which a query that begins with them does not see
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.widest.Store(max(s.widest.Load(), s.running.Add(1)))
	defer s.running.Add(-1)
	if s.pause > 0 {
		select {
		case <-time.After(s.pause):
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.requests++; s.requests == 2 && s.hang != nil {
		s.mu.Unlock()
		<-s.hang
		s.mu.Lock()
	}
	q := r.URL.Query()
	switch {
	case strings.HasSuffix(r.URL.Path, "/drilldown-limits"):
		if !s.publish {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"limits":{"max_entries_limit_per_query":%d,"max_query_length":"%ds"}}`, s.limit, int(s.length.Seconds()))
		return
	case strings.HasSuffix(r.URL.Path, "/series"):
		var all []string
		for host := range s.streams {
			all = append(all, fmt.Sprintf(`{"host":%q}`, host))
		}
		fmt.Fprintf(w, `{"status":"success","data":[%s]}`, strings.Join(all, ","))
		return
	}
	limit, _ := strconv.Atoi(q.Get("limit"))
	start, _ := strconv.ParseInt(q.Get("start"), 10, 64)
	end, _ := strconv.ParseInt(q.Get("end"), 10, 64)
	from, to := time.Unix(0, start), time.Unix(0, end)
	s.windows = append(s.windows, to.Sub(from))
	switch {
	case limit > s.limit:
		http.Error(w, fmt.Sprintf("max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", limit, s.limit), http.StatusBadRequest)
		return
	case s.length > 0 && to.Sub(from) > s.length:
		http.Error(w, fmt.Sprintf("the query time range exceeds the limit (query length: %s, limit: %s)", to.Sub(from), s.length), http.StatusBadRequest)
		return
	case s.slow > 0 && to.Sub(from) > s.slow:
		http.Error(w, "request timed out, decrease the duration of the request or add more label matchers (prefer exact match over regex match) to reduce the amount of data processed", http.StatusGatewayTimeout)
		return
	}
	mood := 9
	if s.trouble > 0 && s.rand.IntN(3) == 0 {
		s.trouble--
		mood = s.rand.IntN(6)
	}
	switch mood {
	case 0:
		http.Error(w, "too many outstanding requests", http.StatusTooManyRequests)
		return
	case 1:
		http.Error(w, "empty ring", http.StatusInternalServerError)
		return
	case 2:
		panic(http.ErrAbortHandler)
	}
	var hosts []string
	for host := range s.streams {
		if !strings.Contains(q.Get("query"), "host=") || strings.Contains(q.Get("query"), "host="+strconv.Quote(host)) {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	type hit struct {
		host string
		e    Entry
	}
	var hits []hit
	for _, host := range hosts {
		for _, e := range s.streams[host] {
			hidden := s.ends != nil && s.ends(e) && e.Time.Equal(from)
			if !e.Time.Before(from) && e.Time.Before(to) && !hidden {
				hits = append(hits, hit{host, e})
			}
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return a.e.Time.Compare(b.e.Time) })
	hits = hits[:min(limit, len(hits))]
	s.sent += len(hits)
	by := map[string]*fakeStream{}
	for _, h := range hits {
		if by[h.host] == nil {
			by[h.host] = &fakeStream{labels: map[string]string{"host": h.host}}
		}
		by[h.host].entries = append(by[h.host].entries, h.e)
	}
	var out []fakeStream
	for _, st := range by { // in any order
		out = append(out, *st)
	}
	body := writeJSON(out)
	if s.message > 0 && len(body) > s.message {
		s.lost++
		http.Error(w, "request timed out, decrease the duration of the request or add more label matchers (prefer exact match over regex match) to reduce the amount of data processed", http.StatusGatewayTimeout)
		return
	}
	if s.proto && r.Header.Get("Accept") == protobufType {
		w.Header().Set("Content-Type", protobufType)
		body = writeProto(out)
		switch mood {
		case 3: // cut without a word
			body = body[:s.rand.IntN(len(body))]
			s.damaged++
		case 4:
			body[0] ^= 0x40
			s.damaged++
		}
	}
	if mood == 5 { // cut
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		body = body[:s.rand.IntN(len(body))]
	}
	_, _ = w.Write(body)
}

// reading makes a client of a server for one property.
func reading(t interface{ Fatal(...any) }, h http.Handler, change func(*Options)) (*Client, func()) {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = nil
	srv.Start()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		URL: u, HTTP: promconfig.DefaultHTTPClientConfig,
		Backoff: backoff.Config{MinBackoff: 10 * time.Microsecond, MaxBackoff: 100 * time.Microsecond, MaxRetries: 60},
	}
	change(&o)
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		c.Close()
		srv.Close()
	}
}

// Streams, page sizes, limits, encodings, troubles and the number of requests
// at once may be what they will: the same entries in the same order.
func TestAnyWayOfReadingGivesTheSame(t *testing.T) {
	defer lower(&shortRange, 0)()
	damages := 0
	rapid.Check(t, func(t *rapid.T) {
		s := &server{
			streams: map[string][]Entry{}, limit: rapid.SampledFrom([]int{7, 9, 50, 5000}).Draw(t, "server's limit"),
			proto: rapid.Bool().Draw(t, "protobuf"), publish: rapid.Bool().Draw(t, "publish"),
			length: rapid.SampledFrom([]time.Duration{0, 0, time.Hour, 5 * time.Hour}).Draw(t, "length"),
			slow:   rapid.SampledFrom([]time.Duration{0, 0, 2 * time.Hour}).Draw(t, "slow"),
			rand:   rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
		}
		const span = 24 * time.Hour
		seen := map[string]bool{}
		dense := rapid.SampledFrom([]int64{1, int64(time.Second), int64(10 * time.Minute)}).Draw(t, "density")
		at := epoch
		for range rapid.IntRange(0, 120).Draw(t, "entries") {
			at = at.Add(time.Duration(s.rand.Int64N(3) * s.rand.Int64N(2) * dense))
			if s.rand.IntN(40) == 0 {
				at = at.Add(time.Duration(s.rand.Int64N(int64(2 * time.Hour))))
			}
			host := string(rune('a' + s.rand.IntN(5)))
			line := rapid.SampledFrom([]string{"x", "y", "z", "\xff", "", "line\nwith \"quotes\" é"}).Draw(t, "line")
			key := fmt.Sprint(at, host, validText([]byte(line)))
			// one stream's share of an instant must fit into a page
			share := fmt.Sprint(at, host)
			if seen[key] || seen[share+"1"] && seen[share+"2"] {
				continue
			}
			seen[key], seen[share+"2"], seen[share+"1"] = true, seen[share+"1"], true
			e := Entry{Time: at, Line: line}
			if s.rand.IntN(2) == 0 {
				e.Metadata = map[string]string{"pid": strconv.Itoa(s.rand.IntN(3))}
			}
			s.streams[host] = append(s.streams[host], e)
		}
		if rapid.Bool().Draw(t, "chunks") {
			s.ends = func(e Entry) bool { return e.Time.Sub(epoch)%2 == 0 && !e.Time.Equal(e.Time.Truncate(time.Hour)) }
		}
		var want []Entry
		for host, es := range s.streams {
			st := &Stream{Labels: map[string]string{"host": host}, Key: keyOf(map[string]string{"host": host})}
			for _, e := range es {
				e.Stream, e.Line = st, validText([]byte(e.Line))
				e.Time = e.Time.UTC()
				if e.Time.Before(epoch.Add(span)) {
					want = append(want, e)
				}
			}
		}
		want = append([]Entry{}, merged(want)...)
		s.trouble = rapid.IntRange(0, 20).Draw(t, "trouble")
		var progress []Progress
		c, end := reading(t, s, func(o *Options) {
			o.PageSize = rapid.SampledFrom([]int{0, 5, 7, 40, 6000}).Draw(t, "page size")
			o.MaxParallel = rapid.IntRange(1, 4).Draw(t, "parallel")
			o.MaxBuffer = rapid.SampledFrom([]int64{0, 1 << 14, 1 << 16}).Draw(t, "buffer")
			o.Progress = func(p Progress) { progress = append(progress, p) }
		})
		defer end()
		got := []Entry{}
		for e, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(span)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		last := Progress{}
		for _, p := range progress {
			if p.At.Before(last.At) || p.Entries < last.Entries {
				t.Fatalf("progress goes back: %+v after %+v", p, last)
			}
			last = p
		}
		if !last.At.Equal(epoch.Add(span)) || last.Entries != len(want) {
			t.Fatalf("the last progress is %+v", last)
		}
		damages += s.damaged
	})
	if damages == 0 {
		t.Error("no answer was damaged")
	}
}

// lower sets a variable for the time of a test.
func lower[T any](v *T, to T) (back func()) {
	old := *v
	*v = to
	return func() { *v = old }
}

// busy is a server with many lines.
func busy(lines int, pause time.Duration) *server {
	s := &server{streams: map[string][]Entry{}, limit: 500, proto: true, publish: true, pause: pause}
	for i := range lines {
		host := "web-" + strconv.Itoa(i%5)
		s.streams[host] = append(s.streams[host], Entry{Time: epoch.Add(time.Duration(i) * time.Second), Line: "line " + strconv.Itoa(i)})
	}
	return s
}

func TestParallelAsksAtOnce(t *testing.T) {
	for _, parallel := range []int{1, 3} {
		s := busy(20_000, time.Millisecond)
		c, end := reading(t, s, func(o *Options) { o.MaxParallel = parallel })
		n := 0
		for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(6*time.Hour)) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 20_000 || int(s.widest.Load()) != parallel || s.requests > 90 {
			t.Errorf("%d entries, %d requests, %d at once", n, s.requests, s.widest.Load())
		}
		end()
	}
}

// What a follower reads is read in sequence.
func TestShortRangesAreReadInSequence(t *testing.T) {
	s := busy(5000, 0)
	c, end := reading(t, s, func(o *Options) { o.MaxParallel = 4 })
	defer end()
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(2*time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.widest.Load() != 1 {
		t.Errorf("%d at once", s.widest.Load())
	}
}

// A reader that stops, a cancel and a panic in the middle leave no request
// behind: TestMain looks for goroutines.
func TestStoppingInTheMiddle(t *testing.T) {
	for _, how := range []string{"break", "cancel", "panic"} {
		s := busy(20_000, 2*time.Millisecond)
		c, end := reading(t, s, func(o *Options) { o.MaxParallel = 4 })
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		var last error
		func() {
			defer func() { _ = recover() }()
			for _, err := range c.Range(ctx, `{job="fail2ban"}`, epoch, epoch.Add(6*time.Hour)) {
				if last = err; err != nil {
					continue
				}
				if n++; n == 3000 {
					switch how {
					case "break":
						return
					case "cancel":
						cancel()
					case "panic":
						panic("reader")
					}
				}
			}
		}()
		if how == "cancel" && !errors.Is(last, context.Canceled) {
			t.Errorf("a cancel ends with %v after %d entries", last, n)
		}
		// the server hears of a cancel a moment later
		deadline := time.Now().Add(5 * time.Second)
		for s.running.Load() > 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if s.running.Load() != 0 {
			t.Errorf("%s: %d requests still run", how, s.running.Load())
		}
		cancel()
		end()
	}
}

// While the earliest window's answer is awaited, the others' are held: up to
// max_buffer, and no more is asked for.
func TestBufferIsBounded(t *testing.T) {
	for buffer, all := range map[int64]bool{64 << 10: false, 256 << 20: true} {
		s := busy(20_000, 0)
		s.hang = make(chan struct{})
		c, end := reading(t, s, func(o *Options) { o.MaxParallel, o.MaxBuffer, o.PageSize = 4, buffer, 50 })
		var given atomic.Int64
		held := make(chan int)
		go func() {
			sent, quiet := 0, 0
			for quiet < 100 { // nothing was asked for in a tenth of a second
				<-time.After(time.Millisecond)
				s.mu.Lock()
				if quiet++; s.sent != sent || s.sent == 0 {
					sent, quiet = s.sent, 0
				}
				s.mu.Unlock()
			}
			ahead := sent - int(given.Load())
			close(s.hang)
			held <- ahead
		}()
		for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(6*time.Hour)) {
			if err != nil {
				t.Fatal(err)
			}
			given.Add(1)
		}
		ahead := <-held // of 75 bytes each
		if given.Load() != 20_000 || all != (ahead > 4000) || !all && ahead > int(buffer/75) {
			t.Errorf("max_buffer %d: %d entries, %d ahead of the awaited one's", buffer, given.Load(), ahead)
		}
		end()
	}
}

// An answer that has no room is asked for in smaller ones.
func TestAnswersTooLarge(t *testing.T) {
	s := busy(3000, 0)
	for _, es := range s.streams {
		for i := range es {
			es[i].Line = strings.Repeat("x", 1000) + es[i].Line
		}
	}
	for _, proto := range []bool{true, false} {
		s.proto = proto
		c, end := reading(t, s, func(o *Options) { o.MaxBuffer = 400 << 10 })
		n := 0
		for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(time.Hour)) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 3000 {
			t.Errorf("%d entries", n)
		}
		end()
	}
	c, end := reading(t, s, func(o *Options) { o.MaxBuffer = 1 << 10 })
	defer end()
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(time.Hour)) {
		if err == nil || !strings.Contains(err.Error(), "a larger max_buffer helps") {
			t.Errorf("%v", err)
		}
	}
}

// Loki's parts take messages of 4 MiB from each other by default. A larger page
// is lost between them, and its request times out, which must not happen page
// after page (Loki 3.7.8 with its entry limit raised and nothing else).
func TestPagesFitIntoMessages(t *testing.T) {
	for name, tc := range map[string]struct {
		told int64
		lost int // at most
	}{"known": {400_000, 0}, "not known": {0, 4}} {
		s := busy(0, 0)
		s.limit, s.publish, s.message = 50_000, true, 400_000
		for i := range 40_000 { // of an hour, 2.6 MB
			s.streams["a"] = append(s.streams["a"], Entry{Time: epoch.Add(time.Duration(i) * 90 * time.Millisecond), Line: fmt.Sprintf("line %5d", i)})
		}
		for _, s.proto = range []bool{true, false} {
			s.lost = 0
			c, end := reading(t, s, func(o *Options) { o.MaxMessage, o.MaxParallel = tc.told, 2 })
			n := 0
			for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(4*time.Hour)) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != 40_000 {
				t.Errorf("%s: %d entries", name, n)
			}
			if s.lost > tc.lost {
				t.Errorf("%s, protobuf %v: %d answers were too large", name, s.proto, s.lost)
			}
			end()
		}
	}
}

// Quiet stretches are read in long windows, busy ones in short ones.
func TestWindowsFit(t *testing.T) {
	s := &server{streams: map[string][]Entry{"a": nil}, limit: 100, publish: true, proto: true}
	for i := range 1000 { // all in the first quarter of an hour of ten days
		s.streams["a"] = append(s.streams["a"], Entry{Time: epoch.Add(time.Duration(i) * 900 * time.Millisecond), Line: strconv.Itoa(i)})
	}
	c, end := reading(t, s, func(o *Options) { o.MaxWindow = 4 * 24 * time.Hour })
	defer end()
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(10*24*time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(s.windows) > 35 || slices.Max(s.windows).Truncate(time.Second) != 4*24*time.Hour || s.windows[3] > 10*time.Minute {
		t.Errorf("%d windows: %v", len(s.windows), s.windows)
	}
}

// A time-out of ours makes windows smaller too.
func TestOwnTimeouts(t *testing.T) {
	c := handled(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		start, _ := strconv.ParseInt(q.Get("start"), 10, 64)
		end, _ := strconv.ParseInt(q.Get("end"), 10, 64)
		if time.Duration(end-start) > 20*time.Minute {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(writeJSON(nil))
	}, func(o *Options) { o.Timeout = 20 * time.Millisecond })
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(90*time.Minute)) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The pages are as large as the server allows, and never larger than told.
func TestPageSize(t *testing.T) {
	for _, tc := range []struct {
		size, limit int
		publish     bool
		want        int
	}{
		{0, 700, true, 700},
		{0, 700, false, 700},   // refused at 5000, which says so
		{0, 9000, false, 5000}, // the usual
		{0, 9000, true, 9000},
		{0, 1 << 20, true, largestPage},
		{600, 9000, true, 600},
		{6000, 9000, true, 6000},
		{6000, 700, true, 700},
	} {
		s := busy(10, 0)
		s.limit, s.publish = tc.limit, tc.publish
		var last int
		c, end := reading(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if l, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil {
				last = l
			}
			s.ServeHTTP(w, r)
		}), func(o *Options) { o.PageSize = tc.size })
		for range 2 {
			for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(time.Minute)) {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if last != tc.want {
			t.Errorf("%+v: asked for %d", tc, last)
		}
		if s.requests > 4 {
			t.Errorf("%+v: %d requests: the limits are asked for once", tc, s.requests)
		}
		end()
	}
}

// Loki does not promise its protobuf: where it cannot be read, JSON is.
func TestForeignProtobuf(t *testing.T) {
	s := busy(10, 0)
	asked := map[string]int{}
	c, end := reading(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.Header.Get("Accept")]++
		if r.Header.Get("Accept") == protobufType {
			w.Header().Set("Content-Type", protobufType)
			_, _ = w.Write([]byte("\xff\xff of the future"))
			return
		}
		s.ServeHTTP(w, r)
	}), func(o *Options) { o.PageSize = 100 })
	defer end()
	n := 0
	for _, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(time.Minute)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 10 || asked[protobufType] != tolerated {
		t.Errorf("%d entries; asked: %v", n, asked)
	}
}

// No cut of an answer is ever taken for a shorter one.
func TestEveryCutIsSeen(t *testing.T) {
	_, body := pageOf(20, 3)
	for i := range body {
		d := &decoder{streams: &streamTable{}}
		if err := d.protobuf(body[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("cut at %d of %d: %d entries, %v", i, len(body), len(d.entries), err)
		}
	}
	if err := (&decoder{streams: &streamTable{}}).protobuf(bytes.Clone(body)); err != nil {
		t.Fatal(err)
	}
}

func TestQueryOfNumbersInProtobuf(t *testing.T) {
	for _, body := range [][]byte{field(nil, 5, []byte{10, 1, 'x'}), field(nil, 6, field(field(nil, 1, []byte("success")), 2, field(nil, 1, []byte("matrix"))))} {
		calls := 0
		c := handled(t, func(w http.ResponseWriter, _ *http.Request) {
			calls++
			w.Header().Set("Content-Type", protobufType)
			_, _ = w.Write(body)
		}, nil)
		_, err := readAll(context.Background(), c, time.Second)
		if err == nil || !strings.Contains(err.Error(), "log lines") || calls != 1 {
			t.Errorf("%d calls: %v", calls, err)
		}
	}
}
