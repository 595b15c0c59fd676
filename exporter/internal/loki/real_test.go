package loki

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/grafana/dskit/backoff"
	promconfig "github.com/prometheus/common/config"
)

// These read a real Loki; the end-to-end tests start one and run them
// (e2e/reading_test.go). By itself:
//
//	LOKI_URL=http://localhost:3100 go test -run RealLoki -bench Backfill -benchtime 1x ./exporter/internal/loki

// forms counts the answers by their form.
type forms struct {
	next            http.RoundTripper
	protobuf, other atomic.Int64
}

func (f *forms) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/query_range") && resp.StatusCode == http.StatusOK {
		if resp.Header.Get("Content-Type") == protobufType {
			f.protobuf.Add(1)
		} else {
			f.other.Add(1)
		}
	}
	return resp, err
}

func (f *forms) CloseIdleConnections() { (&http.Client{Transport: f.next}).CloseIdleConnections() }

// realLoki makes a client of the Loki that the environment names.
func realLoki(t testing.TB, change func(*Options)) (*Client, *forms) {
	t.Helper()
	if os.Getenv("LOKI_URL") == "" {
		t.Skip("LOKI_URL names no Loki")
	}
	u, err := url.Parse(os.Getenv("LOKI_URL"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		URL: u, HTTP: promconfig.DefaultHTTPClientConfig, TenantID: os.Getenv("LOKI_TENANT"),
		Backoff:  backoff.Config{MinBackoff: 10 * time.Millisecond, MaxBackoff: time.Second, MaxRetries: 10},
		Retrying: func(err error) { t.Log(err) },
	}
	change(&o)
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &forms{next: c.http.Transport}
	c.http.Transport = f
	t.Cleanup(c.Close)
	return c, f
}

// What Loki holds is the same entries in the same order in protobuf and in
// JSON, in sequence and four at once, in small and in large pages.
func TestRealLoki(t *testing.T) {
	from, to := span(t)
	var want []Entry
	for _, size := range []int{5000, 7, 0} {
		for _, json := range []bool{true, false} {
			for _, parallel := range []int{1, 4} {
				name := fmt.Sprintf("page_size=%d json=%t max_parallel=%d", size, json, parallel)
				c, f := realLoki(t, func(o *Options) { o.PageSize, o.JSON, o.MaxParallel = size, json, parallel })
				var got []Entry
				for e, err := range c.Range(t.Context(), realQuery(), from, to) {
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					got = append(got, e)
				}
				if json && f.protobuf.Load() > 0 || !json && f.other.Load() > 0 {
					t.Errorf("%s: %d answers in protobuf, %d in JSON", name, f.protobuf.Load(), f.other.Load())
				}
				if want == nil {
					want = got
				}
				if n, _ := strconv.Atoi(os.Getenv("LOKI_LINES")); n > 0 && len(got) != n {
					t.Errorf("%s: %d entries of %d", name, len(got), n)
				}
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				t.Logf("%s: %d entries in %d answers", name, len(got), f.protobuf.Load()+f.other.Load())
			}
		}
	}
}

func realQuery() string { return cmp.Or(os.Getenv("LOKI_QUERY"), `{job="fail2ban"}`) }

// span is what the environment says to read.
func span(t testing.TB) (from, to time.Time) {
	t.Helper()
	if os.Getenv("LOKI_URL") == "" {
		t.Skip("LOKI_URL names no Loki")
	}
	var err [2]error
	from, err[0] = time.Parse(time.RFC3339, os.Getenv("LOKI_FROM"))
	to, err[1] = time.Parse(time.RFC3339, os.Getenv("LOKI_TO"))
	if err[0] != nil || err[1] != nil {
		t.Skip("LOKI_FROM and LOKI_TO name no time")
	}
	return from, to
}

// BenchmarkBackfill reads LOKI_BENCH lines, which it pushes first into a job
// of their own, in each way.
func BenchmarkBackfill(b *testing.B) {
	lines, _ := strconv.Atoi(os.Getenv("LOKI_BENCH"))
	if lines == 0 {
		b.Skip("LOKI_BENCH says not how many lines")
	}
	const days = 7
	end := time.Now().Truncate(time.Hour)
	from := end.Add(-days * 24 * time.Hour)
	fill(b, lines, from, end)
	query := fmt.Sprintf("{job=%q}", benchJob(lines))
	for _, way := range []struct {
		name     string
		size     int
		json     bool
		parallel int
	}{
		{"json/sequential", 0, true, 1},
		{"protobuf/sequential", 0, false, 1},
		{"json/parallel=2", 0, true, 2},
		{"protobuf/parallel=2", 0, false, 2},
		{"protobuf/parallel=4", 0, false, 4},
		{"protobuf/parallel=2/page=1000", 1000, false, 2},
	} {
		b.Run(way.name, func(b *testing.B) {
			c, f := realLoki(b, func(o *Options) { o.PageSize, o.JSON, o.MaxParallel = way.size, way.json, way.parallel })
			var peak uint64
			for b.Loop() {
				n := 0
				seen := make([]bool, lines)
				for e, err := range c.Range(b.Context(), query, from, end) {
					if err != nil {
						b.Fatal(err)
					}
					seen[lineAt(e.Time, from, end, lines)] = true
					if n++; n%5000 == 0 {
						var m runtime.MemStats
						runtime.ReadMemStats(&m)
						peak = max(peak, m.HeapInuse)
					}
				}
				if n != lines {
					b.Fatalf("%d entries of %d; missing: %s", n, lines, missing(seen))
				}
			}
			b.ReportMetric(float64(lines)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(float64(f.protobuf.Load()+f.other.Load())/float64(b.N), "pages")
			b.ReportMetric(float64(peak)/(1<<20), "MiB-heap")
		})
	}
}

// lineAt tells which line bears a time.
func lineAt(at, from, end time.Time, lines int) int {
	step := end.Sub(from) / time.Duration(lines)
	i := int(at.Sub(from) / step)
	for k := max(i-1, 0); k < min(i+2, lines); k++ {
		if at.Equal(benchTime(k, from, step)) {
			return k
		}
	}
	panic("no line of ours at " + at.String())
}

// benchTime is the time of a line: milliseconds, as fail2ban has them, and no
// two alike.
func benchTime(i int, from time.Time, step time.Duration) time.Time {
	return from.Add(time.Duration(i) * step).Truncate(time.Millisecond).Add(time.Duration(i % 1000))
}

// missing says by host which lines were not seen.
func missing(seen []bool) string {
	type hole struct{ n, first, last int }
	holes := map[int]hole{}
	for i, ok := range seen {
		if !ok {
			h := holes[i%benchHosts]
			if h.n == 0 {
				h.first = i
			}
			holes[i%benchHosts] = hole{h.n + 1, h.first, i}
		}
	}
	return fmt.Sprintf("%+v", holes)
}

const benchHosts = 50

func benchJob(lines int) string { return "bench-" + strconv.Itoa(lines) }

// fill pushes lines of 50 hosts, more by day than by night, unless they are
// there already.
func fill(b *testing.B, lines int, from, end time.Time) {
	c, _ := realLoki(b, func(o *Options) { o.Timeout = time.Minute })
	step := end.Sub(from) / time.Duration(lines)
	var batch [benchHosts]PushStream
	size := 0
	flush := func() {
		var full []PushStream
		for i := range batch {
			if len(batch[i].Entries) > 0 {
				full = append(full, batch[i])
				batch[i].Entries = nil
			}
		}
		if err := c.Push(context.Background(), full); err != nil {
			b.Fatal(err)
		}
		size = 0
	}
	for i := range batch {
		batch[i].Labels = map[string]string{"job": benchJob(lines), "host": "web-" + strconv.Itoa(i)}
	}
	rows := []string{
		"fail2ban.filter         [4707]: INFO    [sshd] Found 192.0.%d.%d - %s", "fail2ban.actions        [4707]: NOTICE  [sshd] Ban 192.0.%d.%d",
		"fail2ban.filter         [4707]: INFO    [sshd] Found 192.0.%d.%d - %s", "fail2ban.actions        [4707]: NOTICE  [sshd] Unban 192.0.%d.%d",
	}
	for i := range lines {
		at := benchTime(i, from, step)
		row := rows[i%len(rows)]
		text := at.UTC().Format("2006-01-02 15:04:05") + fmt.Sprintf(",%03d ", at.Nanosecond()/1e6)
		if strings.Contains(row, "Found") {
			text += fmt.Sprintf(row, i/251%256, i%251, at.UTC().Format("2006-01-02 15:04:05"))
		} else {
			text += fmt.Sprintf(row, i/251%256, i%251)
		}
		s := &batch[i%benchHosts]
		s.Entries = append(s.Entries, PushEntry{Time: at, Line: text})
		if size += len(text); size > 1<<20 {
			flush()
		}
	}
	flush()
}

// Lines that are not UTF-8 are equal too, however they are read.
func TestRealLokiBadText(t *testing.T) {
	at, _ := span(t)
	var got [2][]string
	for i, json := range []bool{true, false} {
		c, _ := realLoki(t, func(o *Options) { o.JSON = json })
		if json {
			err := c.Push(t.Context(), []PushStream{{Labels: map[string]string{"job": "bad-text"}, Entries: []PushEntry{
				{Time: at, Line: "caf\xe9 \xff\xfe", Metadata: []Label{{"user", "Ren\u00e9"}}}, {Time: at.Add(1), Line: "<a> & \u2028 \x00 \"b\\"},
			}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for e, err := range c.Range(t.Context(), `{job="bad-text"}`, at, at.Add(2)) {
			if err != nil {
				t.Fatal(err)
			}
			got[i] = append(got[i], fmt.Sprintf("%q %q %v", e.Stream.Key, e.Line, e.Metadata))
		}
	}
	if diff := gocmp.Diff(got[0], got[1]); diff != "" || len(got[0]) != 2 {
		t.Errorf("%q\n%s", got[0], diff)
	}
}
