package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// Whatever is wrong is said once, in words that tell what it is, with the exit
// code of the interface: 1 failed, 2 wrong usage.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	nobody, err := lab.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	guard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="logs"`)
		http.Error(w, "authorization required", http.StatusUnauthorized)
	}))
	t.Cleanup(guard.Close)
	push(t, "bad-input", load(t, "restart-jail"))

	good := config{tenant: "bad-input"}.write(t)
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	// The key stands where page_size did, in the ninth line or so.
	unknown := writeFile(t, dir, "unknown.yaml", strings.Replace(string(text), "page_size:", "pagesize:", 1))
	line := 1 + strings.Count(string(text[:strings.Index(string(text), "page_size:")]), "\n")
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	// Both of these read Loki and end by themselves.
	report := func(file string) []string { return []string{"report", "bans", "--config.file", file} }
	once := func(file string) []string {
		return []string{"run", "--once", "--config.file", file, "--web.listen-address", "127.0.0.1:0"}
	}
	for _, tt := range []struct {
		name string
		args [][]string
		code int
		say  []string // patterns
	}{
		{
			"Loki is down",
			both(report, once, config{url: "http://" + nobody}.write(t)),
			1,
			[]string{`connection refused`, regexp.QuoteMeta(nobody)},
		},
		{
			"no tenant",
			both(report, once, config{}.write(t)),
			1,
			[]string{`401`, `(?i)tenant|org id`},
		},
		{
			"a proxy wants a password",
			both(report, once, config{url: guard.URL}.write(t)),
			1,
			[]string{`401`},
		},
		{
			"an error in LogQL",
			both(report, once, config{tenant: "bad-input", query: `{job="fail2ban"`}.write(t)),
			1,
			[]string{`query`, `(?i)syntax|parse error`},
		},
		{
			"an unknown key",
			both(report, once, unknown),
			1,
			[]string{`pagesize`, fmt.Sprintf(`line %d`, line), `unknown\.yaml`},
		},
		{
			"an empty configuration",
			both(report, once, writeFile(t, dir, "empty.yaml", "")),
			1,
			[]string{`empty\.yaml`, `(?i)empty|no sources`},
		},
		{
			"no configuration",
			both(report, once, filepath.Join(dir, "missing.yaml")),
			1,
			[]string{`missing\.yaml`, `no such file`},
		},
		{
			"a binary file",
			[][]string{{"report", "bans", binary}},
			1,
			[]string{regexp.QuoteMeta(filepath.Base(binary))},
		},
		{
			"no file",
			[][]string{{"report", "bans", filepath.Join(dir, "missing.log")}},
			1,
			[]string{`missing\.log`, `no such file`},
		},
		{
			"an unknown kind",
			[][]string{{"report", "bananas", "--config.file", good}},
			2,
			[]string{`bananas`},
		},
		{
			"an unknown flag",
			[][]string{{"report", "bans", "--bananas"}, {"run", "--bananas"}},
			2,
			[]string{`bananas`},
		},
		{
			"an unknown format",
			[][]string{{"report", "bans", "--format", "bananas", "--config.file", good}},
			2,
			[]string{`bananas`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, args := range tt.args {
				r := execute(t, args...)
				called := args[0]
				if r.code != tt.code {
					t.Errorf("%s: exit code %d, want %d", called, r.code, tt.code)
				}
				if r.stdout != "" {
					t.Errorf("%s: standard output is for data alone, got:\n%s", called, r.stdout)
				}
				said := complaints(r.stderr)
				if len(said) != 1 {
					t.Errorf("%s: %d messages, want one:\n%s", called, len(said), r.stderr)
					continue
				}
				for _, pattern := range tt.say {
					if !regexp.MustCompile(pattern).MatchString(said[0]) {
						t.Errorf("%s: nothing of %q in: %s", called, pattern, said[0])
					}
				}
			}
		})
	}
}

func both(report, once func(string) []string, file string) [][]string {
	return [][]string{report(file), once(file)}
}

// complaints returns the lines that are more than progress or a warning.
func complaints(stderr string) []string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	return slices.DeleteFunc(lines, regexp.MustCompile(`(?i)\blevel=(debug|info|warn)\b|^\s*$`).MatchString)
}

// A daemon whose query matches nothing says so, and what to try.
func TestNoStream(t *testing.T) {
	s := daemon(t, config{tenant: "nobody-pushes-here"})
	poll(t, s, "does not say that no stream matches", func(context.Context) error {
		for line := range strings.Lines(s.Log()) {
			if regexp.MustCompile(`(?i)no (log )?streams?\b`).MatchString(line) && strings.Contains(line, "sources.query") {
				return nil
			}
		}
		return fmt.Errorf("no such line with a hint at the query")
	})
}
