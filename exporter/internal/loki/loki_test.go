package loki

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/dskit/backoff"
	"github.com/grafana/loki/v3/pkg/logproto"
	"github.com/klauspost/compress/snappy"
	promconfig "github.com/prometheus/common/config"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Loki with its semantics: the start is in the range, the end is
// not, the limit counts over all streams, and a page is cut anywhere.
type fake struct {
	mu       sync.Mutex
	streams  map[string][]fakeEntry // by their labels
	maxLimit int
	answers  []int // status codes given before any answer
	calls    int
	tenant   string
	pushed   []logproto.PushRequest
}

type fakeEntry struct {
	ns   int64
	line string
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.tenant = r.Header.Get("X-Scope-OrgID")
	if len(f.answers) > 0 {
		code := f.answers[0]
		f.answers = f.answers[1:]
		switch code {
		case 0: // cut in the middle
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"status":"succ`)
		case 400:
			http.Error(w, "parse error at line 1, col 5: syntax error: unexpected $end\nmore", code)
		case 401:
			http.Error(w, "no org id", code)
		default:
			w.Header().Set("Retry-After", "0")
			http.Error(w, "not now", code)
		}
		return
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/push"):
		f.push(w, r)
	case strings.HasSuffix(r.URL.Path, "/series"):
		f.series(w)
	case strings.HasSuffix(r.URL.Path, "/query_range"):
		f.query(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) query(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Loki-Response-Encoding-Flags") != "categorize-labels" {
		http.Error(w, "labels are not categorized", http.StatusTeapot)
		return
	}
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	if f.maxLimit > 0 && limit > f.maxLimit {
		http.Error(w, fmt.Sprintf("max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", limit, f.maxLimit), http.StatusBadRequest)
		return
	}
	start, _ := strconv.ParseInt(q.Get("start"), 10, 64)
	end, _ := strconv.ParseInt(q.Get("end"), 10, 64)
	type hit struct {
		fakeEntry
		stream string
	}
	var hits []hit
	for stream, es := range f.streams {
		if !strings.Contains(q.Get("query"), "host=") || strings.Contains(q.Get("query"), "host="+strconv.Quote(stream)) {
			for _, e := range es {
				if e.ns >= start && e.ns < end {
					hits = append(hits, hit{e, stream})
				}
			}
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int {
		if a.ns != b.ns {
			return int(a.ns - b.ns)
		}
		return strings.Compare(b.stream+b.line, a.stream+a.line) // the other way round than ours
	})
	hits = hits[:min(limit, len(hits))]
	results := map[string][]any{}
	for _, h := range hits {
		results[h.stream] = append(results[h.stream], []any{strconv.FormatInt(h.ns, 10), h.line, map[string]any{"structuredMetadata": map[string]string{"m": h.line}}})
	}
	var out []any
	for stream, values := range results {
		out = append(out, map[string]any{"stream": map[string]string{"host": stream, "job": "fail2ban"}, "values": values})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": out}})
}

func (f *fake) series(w http.ResponseWriter) {
	var out []any
	for stream := range f.streams {
		out = append(out, map[string]string{"host": stream, "job": "fail2ban"})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": out})
}

func (f *fake) push(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	raw, err := snappy.Decode(nil, body)
	var req logproto.PushRequest
	if err == nil {
		err = req.Unmarshal(raw)
	}
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "cannot read it", http.StatusUnsupportedMediaType)
		return
	}
	f.pushed = append(f.pushed, req)
	w.WriteHeader(http.StatusNoContent)
}

func client(t testing.TB, h http.Handler, change func(*Options)) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		URL: u, HTTP: promconfig.DefaultHTTPClientConfig, PageSize: 5,
		Backoff: backoff.Config{MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, MaxRetries: 3},
	}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var epoch = time.Unix(1_795_000_000, 0)

func readAll(ctx context.Context, c *Client, span time.Duration) (out []string, err error) {
	for e, err := range c.Range(ctx, `{job="fail2ban"}`, epoch, epoch.Add(span)) {
		if err != nil {
			return out, err
		}
		out = append(out, fmt.Sprintf("%d %s %s", int64(e.Time.Sub(epoch)), e.Stream.Labels["host"], e.Line))
	}
	return out, nil
}

// Whatever shares an instant, whatever is equal on several hosts, however small
// the pages: every entry is read once, in order.
func TestRangeReadsEverythingOnce(t *testing.T) {
	f := &fake{}
	c := client(t, f, nil)
	rapid.Check(t, func(t *rapid.T) {
		streams := map[string][]fakeEntry{}
		maxLimit := rapid.SampledFrom([]int{0, 0, 7, 9}).Draw(t, "server's limit")
		c.o.PageSize = rapid.IntRange(1, 9).Draw(t, "page size")
		var want []string
		type key struct {
			ns           int64
			stream, line string
		}
		have := map[key]bool{} // Loki keeps one of (stream, time, line)
		for range rapid.IntRange(0, 60).Draw(t, "entries") {
			k := key{rapid.Int64Range(0, 8).Draw(t, "time"), rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "host"), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "line")}
			if !have[k] {
				have[k] = true
				streams[k.stream] = append(streams[k.stream], fakeEntry{epoch.UnixNano() + k.ns, k.line})
				want = append(want, fmt.Sprintf("%d %s %s", time.Duration(k.ns), k.stream, k.line))
			}
		}
		f.mu.Lock()
		f.streams, f.maxLimit = streams, maxLimit
		f.mu.Unlock()
		got, err := readAll(context.Background(), c, time.Second)
		if err != nil {
			if c.o.PageSize < 4 || f.maxLimit > 0 && f.maxLimit < 4 {
				t.Skip("a single stream overflows the page") // said as an error: see below
			}
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(a[:1], b[:1]) }) {
			t.Fatalf("out of order: %q", got)
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// An instant of one stream that is larger than the server gives is an error
// that names it, never a loss.
func TestInstantTooLarge(t *testing.T) {
	f := &fake{streams: map[string][]fakeEntry{}, maxLimit: 5}
	for i := range 12 {
		f.streams["a"] = append(f.streams["a"], fakeEntry{epoch.UnixNano() + 3, strconv.Itoa(i)})
	}
	_, err := readAll(context.Background(), client(t, f, nil), time.Second)
	if err == nil || !strings.Contains(err.Error(), "raise the server's max_entries_limit_per_query") || !strings.Contains(err.Error(), epoch.Add(3).UTC().Format(time.RFC3339Nano)) {
		t.Errorf("%v", err)
	}
}

func TestSmallerLimitOfTheServer(t *testing.T) {
	f := &fake{streams: map[string][]fakeEntry{}, maxLimit: 7}
	for i := range 40 {
		f.streams["a"] = append(f.streams["a"], fakeEntry{epoch.UnixNano() + int64(i), "x"})
	}
	got, err := readAll(context.Background(), client(t, f, func(o *Options) { o.PageSize = 5000 }), time.Second)
	if err != nil || len(got) != 40 {
		t.Errorf("%d entries: %v", len(got), err)
	}
}

// Long ranges are cut into windows, half-open, so that nothing is lost or
// doubled where they meet.
func TestWindows(t *testing.T) {
	f := &fake{streams: map[string][]fakeEntry{}}
	for i := range 50 {
		f.streams["a"] = append(f.streams["a"], fakeEntry{epoch.Add(time.Duration(i) * time.Minute).UnixNano(), "x"})
	}
	got, err := readAll(context.Background(), client(t, f, func(o *Options) { o.MaxWindow = 10 * time.Minute }), 45*time.Minute)
	if err != nil || len(got) != 45 {
		t.Errorf("%d entries: %v", len(got), err)
	}
}

func TestTemporaryErrorsAreTriedAgain(t *testing.T) {
	for _, code := range []int{429, 500, 502, 503, 504, 0} {
		f := &fake{streams: map[string][]fakeEntry{"a": {{epoch.UnixNano(), "x"}}}, answers: []int{code, code}}
		got, err := readAll(context.Background(), client(t, f, nil), time.Second)
		if err != nil || len(got) != 1 || f.calls != 3 {
			t.Errorf("%d: %d entries after %d calls: %v", code, len(got), f.calls, err)
		}
	}
}

// What no retry can mend is said at once, with what to change.
func TestFinalErrors(t *testing.T) {
	for code, want := range map[int]string{
		400: `loki: query_range 2026-11-18T11:06:40Z to 2026-11-18T11:06:41Z: status 400 Bad Request: parse error at line 1, col 5: syntax error: unexpected $end (check query)`,
		401: `loki: query_range 2026-11-18T11:06:40Z to 2026-11-18T11:06:41Z: status 401 Unauthorized: no org id (this Loki has tenants: set tenant_id)`,
		403: `loki: query_range 2026-11-18T11:06:40Z to 2026-11-18T11:06:41Z: status 403 Forbidden: not now (this user or tenant may not: check basic_auth, authorization and tenant_id)`,
		404: `loki: query_range 2026-11-18T11:06:40Z to 2026-11-18T11:06:41Z: status 404 Not Found: not now (nothing like Loki answers there: check url)`,
	} {
		f, calls := &fake{answers: []int{code}}, 1
		if code == 400 { // once more without our own stage, which an old Loki does not know
			f.answers, calls = []int{code, code}, 2
		}
		_, err := readAll(context.Background(), client(t, f, nil), time.Second)
		if err == nil || err.Error() != want || f.calls != calls {
			t.Errorf("%d calls: %v\nwant %s", f.calls, err, want)
		}
	}
}

// A Loki before 2.9 does not know the stage that spares it work.
func TestOldLoki(t *testing.T) {
	f := &fake{streams: map[string][]fakeEntry{"a": {{epoch.UnixNano(), "x"}}}, answers: []int{400}}
	c := client(t, f, nil)
	for i := range 2 {
		got, err := readAll(context.Background(), c, time.Second)
		if err != nil || len(got) != 1 || f.calls != 2+i {
			t.Errorf("%d entries after %d calls: %v", len(got), f.calls, err)
		}
	}
}

func TestGivingUp(t *testing.T) {
	f := &fake{answers: []int{500, 500, 500, 500, 500, 500, 500}}
	_, err := readAll(context.Background(), client(t, f, nil), time.Second)
	var e *Error
	if !errors.As(err, &e) || e.Status != 500 || !strings.Contains(err.Error(), "gave up after") {
		t.Errorf("%v", err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &fake{answers: []int{500, 500, 500}}
	c := client(t, f, func(o *Options) {
		o.Backoff = backoff.Config{MinBackoff: time.Hour, MaxBackoff: time.Hour, MaxRetries: 9}
		o.Retrying = func(error) { cancel() }
	})
	if _, err := readAll(ctx, c, time.Second); err == nil {
		t.Error("no error after a cancel")
	}
}

func TestTenantAndMetadata(t *testing.T) {
	f := &fake{streams: map[string][]fakeEntry{"a": {{epoch.UnixNano(), "x"}}}}
	c := client(t, f, func(o *Options) { o.TenantID = "team-a" })
	for e, err := range c.Range(context.Background(), `{job="fail2ban"}`, epoch, epoch.Add(1)) {
		if err != nil || e.Metadata["m"] != "x" || e.Stream.Key != `{host="a", job="fail2ban"}` {
			t.Errorf("%+v: %v", e, err)
		}
	}
	if f.tenant != "team-a" {
		t.Errorf("tenant %q", f.tenant)
	}
}

func TestPush(t *testing.T) {
	f := &fake{answers: []int{503}}
	c := client(t, f, nil)
	at := time.Unix(5, 7).UTC()
	err := c.Push(context.Background(), []PushStream{{
		Labels:  map[string]string{"job": "j", "host": `a"b`},
		Entries: []PushEntry{{Time: at, Line: "finding=ban", Metadata: []Label{{"ip", "192.0.2.1"}}}},
	}})
	if err != nil || len(f.pushed) != 1 {
		t.Fatalf("%d pushes: %v", len(f.pushed), err)
	}
	s := f.pushed[0].Streams[0]
	if s.Labels != `{host="a\"b", job="j"}` || !s.Entries[0].Timestamp.Equal(at) || s.Entries[0].Line != "finding=ban" || s.Entries[0].StructuredMetadata[0].Value != "192.0.2.1" {
		t.Errorf("%+v", s)
	}
}

// A 400 means that the rest of the push is stored: it must not be sent again.
func TestPushRefused(t *testing.T) {
	f := &fake{answers: []int{400}}
	err := client(t, f, nil).Push(context.Background(), []PushStream{{Labels: map[string]string{"a": "b"}, Entries: []PushEntry{{Time: epoch, Line: "x"}}}})
	var e *Error
	if !errors.As(err, &e) || e.Status != 400 || f.calls != 1 {
		t.Errorf("%d calls: %v", f.calls, err)
	}
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"http://h:3100":                          "http://h:3100",
		"http://h:3100/":                         "http://h:3100",
		"http://h/loki/api/v1/push":              "http://h",
		"https://h/base/loki/api/v1/query_range": "https://h/base",
		"http://u:p@h/loki/api/v1":               "http://u:xxxxx@h",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(Options{URL: u, HTTP: promconfig.DefaultHTTPClientConfig})
		if err != nil || c.Address() != want {
			t.Errorf("%s: %s (%v), want %s", in, c.Address(), err, want)
		}
	}
}

func TestQueries(t *testing.T) {
	for query, want := range map[string]string{
		`{job="fail2ban"}`:                      "",
		`{job="fail2ban"} |= "Ban"`:             "",
		``:                                      "it is empty",
		`{job="fail2ban"`:                       "is no LogQL",
		`{}`:                                    "is no LogQL",
		`count_over_time({job="fail2ban"}[5m])`: "gives numbers, not log lines",
	} {
		err := ValidateQuery(query)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", query, err)
		}
	}
	got, err := narrow(`{job="fail2ban"} |= "Ban"`, map[string]string{"host": "a"})
	if want := `{job="fail2ban", host="a"} |= "Ban"`; err != nil || got != want {
		t.Errorf("%s (%v), want %s", got, err, want)
	}
}
