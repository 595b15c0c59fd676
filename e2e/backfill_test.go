package e2e

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// enough is from how many lines on times are compared: what takes a second or
// two says little.
const enough = 1_000_000

// messages is how many MiB Loki's parts take from each other here. By default it
// is 4, which pages of 50,000 exceed: logcli's would hang until they time out.
const messages = 64

// TestBackfill reads a generated fleet's week from a real Loki, as reports do
// and as logcli does: all of it must be there and mean what happened. With many
// lines it must also be faster than logcli in sequence, no slower than logcli
// with its best number of workers, and with Loki cost less than Loki alone costs
// where logcli reads.
//
// BACKFILL says how many lines (60,000), PAGES how many a request asks for
// (5000), TIMES how often each way is taken; the best counts.
func TestBackfill(t *testing.T) {
	lines := number(t, "BACKFILL", 60_000)
	logcli, err := lab.Build(t.Context(), "logcli", os.Stderr)
	must(t, err)
	end := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)
	fleet := lab.Fleet{Hosts: 50, Jails: 6, Days: 7, Lines: lines, From: end.Add(-7 * 24 * time.Hour), Seed: 1, IDs: 20_000}
	truth := lab.FleetTruth{}
	server, err := lab.StartLoki(t.Context(), lab.LokiOptions{Limits: map[string]string{"max_entries_limit_per_query": "50000"}, Message: messages << 20})
	must(t, err)
	t.Cleanup(server.Stop)
	lines = ship(t, server, fleet, truth)
	for page := range strings.SplitSeq(cmp.Or(os.Getenv("PAGES"), "5000"), ",") {
		b := &backfill{t: t, loki: server, from: fleet.From, to: end, page: page, lines: lines, truth: truth, logcli: logcli}
		b.compare(number(t, "TIMES", 1))
	}
}

func number(t *testing.T, name string, usual int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(usual)))
	must(t, err)
	return n
}

// ship writes the fleet's lines into Loki and tells how many they are.
func ship(t *testing.T, server *lab.Server, fleet lab.Fleet, truth lab.FleetTruth) (n int) {
	t.Helper()
	start := time.Now()
	for part := range parts(fleet, truth, 50_000) {
		must(t, lab.Push(t.Context(), server.URL, "", lab.Spread(1), part))
		n += len(part)
	}
	t.Logf("%d lines shipped in %v", n, time.Since(start).Round(time.Second))
	return n
}

func parts(fleet lab.Fleet, truth lab.FleetTruth, size int) func(yield func([]lab.Line) bool) {
	return func(yield func([]lab.Line) bool) {
		var part []lab.Line
		for l := range fleet.All(truth) {
			if part = append(part, l); len(part) == size {
				if !yield(part) {
					return
				}
				part = part[:0]
			}
		}
		yield(part)
	}
}

// backfill is what the ways of reading have in common.
type backfill struct {
	t      *testing.T
	loki   *lab.Server
	from   time.Time
	to     time.Time
	page   string
	lines  int
	truth  lab.FleetTruth
	logcli string
}

// cost is what one reading took.
type cost struct {
	wall, own, loki time.Duration
	peak            int // MiB
	lines, requests int
}

func (c cost) String() string {
	return fmt.Sprintf("%6.1f s, %7.0f lines/s, own CPU %5.1f s, Loki's %6.1f s for %d requests, peak %4d MiB, %d lines",
		c.wall.Seconds(), float64(c.lines)/c.wall.Seconds(), c.own.Seconds(), c.loki.Seconds(), c.requests, c.peak, c.lines)
}

// compare takes each way in turn, several times, and keeps the best of each.
func (b *backfill) compare(times int) {
	ways := []struct {
		name string
		read func() cost
	}{
		{"ours, 2 at once", func() cost { return b.report(2) }},
		{"ours, 4 at once", func() cost { return b.report(4) }},
		{"ours, 2, ranking too", func() cost { return b.ranking(2) }},
		{"logcli in sequence", func() cost { return b.query() }},
		{"logcli, 2 workers", func() cost { return b.query("--parallel-max-workers=2") }},
		{"logcli, 4 workers", func() cost { return b.query("--parallel-max-workers=4") }},
	}
	best := map[string]cost{}
	for range times {
		for _, way := range ways {
			c := way.read()
			if old, ok := best[way.name]; !ok || c.wall < old.wall {
				best[way.name] = c
			}
		}
	}
	b.t.Logf("pages of %s, %d lines", b.page, b.lines)
	for _, way := range ways {
		b.t.Logf("%-20s %v", way.name, best[way.name])
	}
	ours, sequence := best["ours, 2 at once"], best["logcli in sequence"] // 2 is the default
	if four := best["ours, 4 at once"]; four.wall < ours.wall {
		ours = four
	}
	parallel := min(best["logcli, 2 workers"].wall, best["logcli, 4 workers"].wall)
	b.t.Logf("logcli's time over ours: %.2f in sequence, %.2f in parallel; our CPU over Loki's: %.3f", sequence.wall.Seconds()/ours.wall.Seconds(),
		parallel.Seconds()/ours.wall.Seconds(), ours.own.Seconds()/ours.loki.Seconds())
	if ours.peak > 500 {
		b.t.Errorf("a peak of %d MiB", ours.peak)
	}
	if b.lines < enough {
		return
	}
	if 1.5*ours.wall.Seconds() > sequence.wall.Seconds() {
		b.t.Error("not 1.5 times as fast as logcli in sequence")
	}
	if ours.wall.Seconds() > 1.15*parallel.Seconds() { // two runs of the same differ by as much
		b.t.Error("slower than logcli with workers")
	}
	if ours.own+ours.loki > best["logcli in sequence"].loki {
		b.t.Error("Loki and we together take more processor time than Loki alone takes for logcli")
	}
}

// ours is a report of a kind.
func (b *backfill) ours(kind string, parallel int) *exec.Cmd {
	b.t.Helper()
	size, err := strconv.Atoi(b.page)
	must(b.t, err)
	file := config{url: b.loki.URL, pageSize: size, source: fmt.Sprintf("max_parallel: %d\n    max_message: %dMiB\n    max_buffer: 128MiB", parallel, messages)}.write(b.t)
	return exec.CommandContext(b.t.Context(), exporter, "report", kind, "--format", "csv", "--config.file", file,
		"--from", b.from.Format(time.RFC3339), "--to", b.to.Format(time.RFC3339))
}

// ranking reads everything and ranks all that were banned.
func (b *backfill) ranking(parallel int) cost {
	b.t.Helper()
	var rows lineCount
	c := b.run(b.ours("offenders", parallel), &rows)
	if rows < 100 {
		b.t.Errorf("%d offenders", rows)
	}
	c.lines = b.lines
	return c
}

// report reads, understands and sums up everything, and holds it against what
// happened.
func (b *backfill) report(parallel int) cost {
	b.t.Helper()
	var out bytes.Buffer
	c := b.run(b.ours("jails", parallel), &out)
	rows, err := csv.NewReader(&out).ReadAll()
	must(b.t, err)
	column := func(name string) int { return slices.Index(rows[0], name) }
	seen := 0
	for _, row := range rows[1:] {
		n := func(name string) int {
			v, err := strconv.Atoi(row[column(name)])
			must(b.t, err)
			return v
		}
		got := lab.Tally{
			Bans: n("bans"), Restores: n("restored_bans"), Expired: n("unbans_expired"), Shutdown: n("unbans_shutdown"), Failures: n("failures"),
		}
		key := row[column("host")] + "/" + row[column("jail")]
		if want := b.truth[key]; want == nil || got != *want {
			b.t.Errorf("%s: %+v, truly %+v", key, got, want)
		}
		seen++
	}
	if seen != len(b.truth) {
		b.t.Errorf("%d jails of %d", seen, len(b.truth))
	}
	out.Reset()
	c.lines = b.lines // each means something: one that were missing would show above, but for those that say nothing
	return c
}

// query reads everything with logcli.
func (b *backfill) query(parallel ...string) cost {
	b.t.Helper()
	args := append([]string{
		"query", `{job="fail2ban"}`, "--addr=" + b.loki.URL, "--quiet", "--forward", "--output=raw", "--limit=0", "--batch=" + b.page,
		"--from=" + b.from.Format(time.RFC3339), "--to=" + b.to.Format(time.RFC3339),
	}, parallel...)
	if len(parallel) > 0 {
		args = append(args, "--parallel-duration=6h", "--merge-parts", "--part-path-prefix="+filepath.Join(b.t.TempDir(), "part"))
	}
	var count lineCount
	c := b.run(exec.CommandContext(b.t.Context(), b.logcli, args...), &count)
	c.lines = int(count)
	if c.lines > b.lines {
		b.t.Errorf("logcli gave %d lines of %d", c.lines, b.lines)
	}
	return c
}

// run runs a command and measures it.
func (b *backfill) run(cmd *exec.Cmd, out io.Writer) (c cost) {
	b.t.Helper()
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &words
	before, err := b.loki.CPU()
	must(b.t, err)
	asked := b.requests()
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%v: %v\n%s", cmd.Args, err, words.String())
	}
	c.wall = time.Since(start)
	after, err := b.loki.CPU()
	must(b.t, err)
	c.requests = b.requests() - asked
	c.own, c.loki = cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), after-before
	c.peak = int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10)
	return c
}

// requests counts the queries that Loki has answered.
func (b *backfill) requests() (n int) {
	b.t.Helper()
	samples, err := lab.Scrape(b.t.Context(), b.loki.URL+"/metrics")
	must(b.t, err)
	for _, s := range samples {
		if s.Name == "loki_request_duration_seconds_count" && s.Labels["route"] == "loki_api_v1_query_range" {
			n += int(s.Value)
		}
	}
	return n
}

// lineCount counts lines.
type lineCount int

// Write implements io.Writer.
func (n *lineCount) Write(p []byte) (int, error) {
	*n += lineCount(bytes.Count(p, []byte("\n")))
	return len(p), nil
}
