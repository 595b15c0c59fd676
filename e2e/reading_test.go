package e2e

import (
	"context"
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
