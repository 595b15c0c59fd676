package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

const recordings = "../testdata/recordings/"

// called is what a run of the program left.
type called struct {
	code        int
	out, errors string
}

func call(t *testing.T, in string, args ...string) called {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(context.Background(), args, strings.NewReader(in), &out, &errs)
	return called{code, out.String(), errs.String()}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// The report of a recording, kind by kind, as a user sees it.
func TestReportGolden(t *testing.T) {
	file := "web-1=" + recordings + "clean-restart/fail2ban.log"
	for _, kind := range reportKinds {
		for _, format := range []string{"table", "csv", "json"} {
			c := call(t, "", "report", kind, "--input", file, "--timezone", "UTC", "--format", format)
			if c.code != exitDone || c.errors != "" {
				t.Fatalf("%s %s: code %d, %s", kind, format, c.code, c.errors)
			}
			golden(t, kind+"."+format, c.out)
		}
	}
}

// A host's rotated logs are one log, in whatever order and packing they come.
func TestRotatedFiles(t *testing.T) {
	dir := recordings + "rollover/"
	old, err := os.ReadFile(dir + "fail2ban.log.1")
	if err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "fail2ban.log.2.gz")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(old); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packed, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	want := call(t, "", "report", "bans", "--format", "csv", "--timezone", "UTC", dir+"fail2ban.log.1", dir+"fail2ban.log")
	if strings.Count(want.out, "\n") < 3 {
		t.Fatalf("%+v", want)
	}
	for _, files := range [][]string{{dir + "fail2ban.log", dir + "fail2ban.log.1"}, {dir + "fail2ban.log", packed}, {"--input", "localhost=" + dir + "fail2ban.lo*[g1]"}} {
		if got := call(t, "", append([]string{"report", "bans", "--format", "csv", "--timezone", "UTC"}, files...)...); got != want {
			t.Errorf("%v: %s", files, cmp.Diff(want.out, got.out))
		}
	}
}

func TestStandardInput(t *testing.T) {
	text, err := os.ReadFile(recordings + "soak/fail2ban.log")
	if err != nil {
		t.Fatal(err)
	}
	want := call(t, "", "report", "events", "--format", "csv", "--timezone", "UTC", recordings+"soak/fail2ban.log")
	got := call(t, string(text), "report", "events", "--format", "csv", "--timezone", "UTC", "-")
	if got != want {
		t.Error(cmp.Diff(want.out, got.out))
	}
	// the newer half first, as `zcat fail2ban.log fail2ban.log.1.gz` gives it:
	// the parts are put in order, and it is said
	newer := strings.ReplaceAll(string(text), "2026-11-22 20:", "2026-11-22 22:")
	want = call(t, string(text)+newer, "report", "events", "--format", "csv", "--timezone", "UTC", "-")
	got = call(t, newer+string(text), "report", "events", "--format", "csv", "--timezone", "UTC", "-")
	if got.out != want.out || !strings.Contains(got.errors, "put in order") || want.errors != "" {
		t.Errorf("%s%s", cmp.Diff(want.out, got.out), got.errors)
	}
}

// The range is half-open and by the lines' own time.
func TestFromTo(t *testing.T) {
	c := call(t, "", "report", "events", "--format", "csv", "--timezone", "UTC", "--from", "2026-11-22T19:59:36.983Z", "--to", "2026-11-22T19:59:37.229Z", recordings+"clean-restart/fail2ban.log")
	if want := 1 + 2; strings.Count(c.out, "\n") != want { // header, and two bans; the third is at the end of the range
		t.Errorf("%s%s", c.out, c.errors)
	}
}

func TestOutputFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans.csv")
	args := []string{"report", "bans", "--format", "csv", "--output", path, recordings + "clean-restart/fail2ban.log"}
	if c := call(t, "", args...); c.code != exitDone || c.out != "" {
		t.Fatalf("%+v", c)
	}
	if c := call(t, "", args...); c.code != exitFailed || !strings.Contains(c.errors, "--force") {
		t.Errorf("an existing file: %+v", c)
	}
	if c := call(t, "", append(args, "--force")...); c.code != exitDone {
		t.Errorf("--force: %+v", c)
	}
}

// One clear message, the exit code of the interface, nothing on standard output.
func TestMistakes(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(other, []byte("192.0.2.1 - - [22/Nov/2026] \"GET /\" 200\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := recordings + "clean-restart/fail2ban.log"
	for _, tt := range []struct {
		args []string
		code int
		say  string
	}{
		{[]string{"report", "bananas"}, exitUsage, `"bananas" is neither a kind of report`},
		{[]string{"report", "--bananas"}, exitUsage, "bananas"},
		{[]string{"bananas"}, exitUsage, "bananas"},
		{[]string{"report", "bans", "--format", "xml", log}, exitUsage, "xml"},
		{[]string{"report", "bans", "--from", "yesterday", log}, exitUsage, `"yesterday" is no time`},
		{[]string{"report", "bans", "--timezone", "Mars", log}, exitUsage, "Mars"},
		{[]string{"report", "bans", "missing.log"}, exitFailed, "missing.log: no such file"},
		{[]string{"report", "bans", binary}, exitFailed, "this is no text"},
		{[]string{"report", "bans", other}, exitFailed, "no line of fail2ban's"},
		{[]string{"report", "bans", "nothing*.log"}, exitFailed, `no file matches "nothing*.log"`},
		{[]string{"report"}, exitUsage, "name fail2ban's log file"},
		{[]string{"report", "--config.file", "missing.yaml"}, exitFailed, "missing.yaml: no such file"},
		{[]string{"check", "--offline", "--config.file", "missing.yaml"}, exitFailed, "missing.yaml: no such file"},
		{[]string{"check", "--health", "http://127.0.0.1:1"}, exitFailed, "not healthy"},
	} {
		c := call(t, "", tt.args...)
		if c.code != tt.code || !strings.Contains(c.errors, tt.say) || strings.Count(c.errors, "\n") != 1 || c.out != "" {
			t.Errorf("%v: code %d, want %d with %q:\n%s%s", tt.args, c.code, tt.code, tt.say, c.errors, c.out)
		}
	}
}

func TestUnparsedLines(t *testing.T) {
	bad := "2026-11-22 19:52:24,003 fail2ban.actions        [1: NOTICE  [sshd] Ban 192.0.2.1\n" +
		"2026-11-22 19:52:25,003 fail2ban.actions        [1]: NOTICE  [sshd] Ban 192.0.2.1\n"
	c := call(t, bad, "report", "bans", "--format", "csv", "-")
	if c.code != exitDone || !strings.Contains(c.errors, "could not be read") {
		t.Errorf("%+v", c)
	}
	if c := call(t, bad, "report", "bans", "--fail-on-unparsed", "-"); c.code != exitFailed {
		t.Errorf("%+v", c)
	}
}

func TestCheckOffline(t *testing.T) {
	c := call(t, "", "check", "--offline", "--config.file", "../config.example.yaml")
	if c.code != exitDone || !strings.Contains(c.out, "sources:") || !strings.Contains(c.errors, "valid") {
		t.Errorf("%+v", c)
	}
	c = call(t, "", "check", "--offline", "--config.expand-env", "--config.file", "../deploy/docker/config.yaml")
	if c.code != exitDone || !strings.Contains(c.out, "http://loki:3100") {
		t.Errorf("the image's own file: %+v", c)
	}
}

func TestVersion(t *testing.T) {
	if c := call(t, "", "--version"); c.code != exitDone || !strings.Contains(c.out, "fail2ban-loki-exporter") {
		t.Errorf("%+v", c)
	}
}
