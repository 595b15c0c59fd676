package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// patience bounds whatever a test waits for.
const patience = 150 * time.Second

// The lines that count, by their text alone.
var (
	banLine     = regexp.MustCompile(`\] (Restore )?Ban `)
	restoreLine = regexp.MustCompile(`\] Restore Ban `)
)

// config is what the tests write into a configuration file.
type config struct {
	url      string // Loki's; that of all tests when empty
	tenant   string
	query    string // of the source; {job="fail2ban"} when empty
	pageSize int    // 5000 when 0
	push     bool   // findings go to the same tenant
	lookback string // 30d when empty
	clients  string // YAML of further entries of clients
	more     string // YAML of further sections
	timezone string // UTC when empty
	format   string // YAML of a format of the lines' own, without its name
	source   string // further YAML of the source, in one line
	state    string // where the state is kept
}

// write writes the configuration file and returns its path. Durations are
// short: what is wrong stays wrong, and the recordings have ended.
func (c config) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if c.url == "" {
		c.url = loki.URL
	}
	if c.query == "" {
		c.query = `{job="fail2ban"}`
	}
	if c.pageSize == 0 {
		c.pageSize = 5000
	}
	if c.timezone == "" {
		c.timezone = "UTC"
	}
	backoff := "backoff_config: {min_period: 10ms, max_period: 50ms, max_retries: 2}"
	text := fmt.Sprintf(`sources:
  - name: lab
    url: %q
    tenant_id: %q
    query: %q
    host_labels: [host]
    timezone: %s
    page_size: %d
    poll_interval: 1s
    %s
    %s
`, c.url, c.tenant, c.query, c.timezone, c.pageSize, cmp.Or(c.source, "max_lateness: 1m"), backoff)
	if c.state != "" {
		text += fmt.Sprintf("state: {path: %q, save_interval: 500ms}\n", c.state)
	}
	if c.format != "" {
		text = "formats:\n  - name: own\n    " + c.format + "\n" + strings.Replace(text, "    poll_interval", "    format: own\n    poll_interval", 1)
	}
	if c.lookback != "" {
		text = strings.Replace(text, "    poll_interval", "    lookback: "+c.lookback+"\n    poll_interval", 1)
	}
	if c.push {
		text += fmt.Sprintf(`clients:
  - url: %q
    tenant_id: %q
    %s
`, c.url, c.tenant, backoff)
	}
	text += c.clients + c.more
	return writeFile(t, dir, "config.yaml", text)
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// result is what a command left.
type result struct {
	code           int
	stdout, stderr string
}

// elsewhere is a zone in which nothing here happened: results must not depend
// on that of the machine.
const elsewhere = "TZ=Asia/Kathmandu"

// execute runs the exporter to its end.
func execute(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, exporter, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), elsewhere)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s does not end; so far:\n%s", strings.Join(args, " "), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	for _, trace := range []string{"goroutine ", "panic"} {
		if strings.Contains(r.stdout+r.stderr, trace) {
			t.Errorf("%s: a trace:\n%s%s", strings.Join(args, " "), r.stdout, r.stderr)
		}
	}
	return r
}

// succeed runs the exporter, which must end well, and returns its output.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	r := execute(t, args...)
	if r.code != 0 {
		t.Fatalf("%s: exit %d:\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// daemon starts `run` on a free port and stops it with the test.
func daemon(t *testing.T, c config) *lab.Server {
	t.Helper()
	return daemonOf(t, c.write(t))
}

// daemonOf starts `run` with a configuration file, and further flags.
func daemonOf(t *testing.T, file string, flags ...string) *lab.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := lab.Serve(ctx, func(addr string) lab.Command {
		return lab.Command{
			Name:  "exporter",
			Path:  exporter,
			Args:  append([]string{"run", "--config.file", file, "--web.listen-address", addr}, flags...),
			Env:   []string{elsewhere},
			URL:   "http://" + addr,
			Ready: "/-/healthy",
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", s.Log())
		}
		s.Stop()
	})
	return s
}

// poll repeats try until it succeeds, and fails the test when it does not in
// time or the daemon ends.
func poll(t *testing.T, s *lab.Server, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Poll(ctx, what, func() error { return try(ctx) }); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, name string) *lab.Recording {
	t.Helper()
	r, err := lab.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// push writes a recording into Loki, spread over several streams of each host.
func push(t *testing.T, tenant string, r *lab.Recording) {
	t.Helper()
	if err := lab.Push(t.Context(), loki.URL, tenant, lab.Spread(3), r.Lines()); err != nil {
		t.Fatal(err)
	}
}

// pushNow writes a recording that has just ended: far enough in the past that
// its hosts count as silent, and near enough that an exporter looks at it. Its
// tenant is the test's own.
func pushNow(t *testing.T, name string) (tenant string, r *lab.Recording) {
	t.Helper()
	tenant = strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	r = load(t, name).EndAt(time.Now().Add(-5 * time.Minute))
	push(t, tenant, r)
	return tenant, r
}
