package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// What the exporter's client reads of a real Loki is the same entries in the
// same order, however it reads: in protobuf and in JSON, in sequence and four
// windows at once, 7 and 5000 lines a page. The client is a package inside, so
// its own test says so, of a recording that is pushed here.
func TestEveryWayOfReading(t *testing.T) {
	const name = "multihost"
	lines := load(t, name).Lines()
	// The hosts' clocks agree to the nanosecond, and they log the same.
	crowd := lines[len(lines)/2].Time.Truncate(time.Second)
	for i := range 40 {
		l := lab.Line{Host: "twin-" + strconv.Itoa(i%8), Time: crowd, Text: "the same line " + strconv.Itoa(i/8)}
		if i%3 == 0 {
			l.Metadata = map[string]string{"pid": strconv.Itoa(i)}
		}
		lines = append(lines, l)
	}
	if err := lab.Push(t.Context(), loki.URL, "ways", lab.Spread(3), lines); err != nil {
		t.Fatal(err)
	}
	from, to := lines[0].Time, lines[0].Time
	for _, l := range lines {
		if l.Time.Before(from) {
			from = l.Time
		}
		if l.Time.After(to) {
			to = l.Time
		}
	}
	// a day of silence before and after: long windows too
	out := clientTest(t, "-run=^TestRealLoki", "-count=1", "LOKI_URL="+loki.URL, "LOKI_TENANT=ways", "LOKI_LINES="+strconv.Itoa(len(lines)),
		"LOKI_FROM="+from.Add(-24*time.Hour).Format(time.RFC3339), "LOKI_TO="+to.Add(24*time.Hour).Format(time.RFC3339))
	if strings.Contains(out, "SKIP") || !strings.Contains(out, "--- PASS: TestRealLoki") {
		t.Error("the client's test did not run")
	}
}

// clientTest runs tests of the exporter's client. Arguments of the form
// NAME=value are its environment.
func clientTest(t *testing.T, args ...string) string {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-v", "-timeout=20m")
	cmd.Dir, cmd.Env = root, os.Environ()
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			cmd.Args = append(cmd.Args, a)
		} else {
			cmd.Env = append(cmd.Env, a)
		}
	}
	cmd.Args = append(cmd.Args, "./exporter/internal/loki")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A page that ends with the last entry of a flushed chunk, at a whole
// millisecond, goes on at that entry's time, and a query that begins there does
// not see it (Loki 3.7.8).
func TestPageThatEndsWithAChunk(t *testing.T) {
	server, err := lab.StartLoki(t.Context(), lab.LokiOptions{})
	must(t, err)
	t.Cleanup(server.Stop)
	start := time.Now().UTC().Truncate(time.Hour).Add(-30 * time.Hour).Add(17 * time.Minute)
	var lines []lab.Line
	for i := range 10 {
		at := start.Add(time.Duration(i) * time.Second)
		lines = append(lines, lab.Line{Host: "web-1", Time: at, Text: at.Format("2006-01-02 15:04:05,000") + " fail2ban.filter [7]: INFO [sshd] Found 192.0.2." + strconv.Itoa(i)})
	}
	must(t, lab.Push(t.Context(), server.URL, "", lab.Spread(1), lines[:5]))
	flush(t, server)
	last := lines[4].Time
	poll(t, server, "a chunk to hide its last entry", func(ctx context.Context) error {
		seen, err := lab.QueryLoki(ctx, server.URL, "", `{job="fail2ban"}`, last, last.Add(1))
		if err == nil && len(seen) > 0 {
			err = errors.New("it is seen: if this Loki hides none, this test and what it is for may go")
		}
		return err
	})
	must(t, lab.Push(t.Context(), server.URL, "", lab.Spread(1), lines[5:]))
	for _, page := range []int{2, 3, 4, 5, 6, 5000} {
		file := config{url: server.URL, pageSize: page}.write(t)
		_, rows := csvRows(t, succeed(t, "report", "events", "--config.file", file, "--format", "csv",
			"--from", start.Add(-time.Hour).Format(time.RFC3339), "--to", start.Add(time.Hour).Format(time.RFC3339)))
		if len(rows) != len(lines) {
			t.Errorf("pages of %d: %d events of %d", page, len(rows), len(lines))
		}
	}
}

// flush has a Loki write all of its chunks.
func flush(t *testing.T, server *lab.Server) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/flush", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
}
