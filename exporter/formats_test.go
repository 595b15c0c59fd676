package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
)

// The line of users who write their own log.
const dashedLog = "2024-10-27 09:50:00 - Ban - 192.168.1.100 - sshd\n" +
	"2024-10-27 09:59:59 - Unban - 192.168.1.100 - sshd\n" +
	"2024-10-27 10:00:00 - Restore Ban - 192.168.1.100 - sshd\n"

const dashedEvents = "time,host,jail,id,event,cause,confidence\n" +
	"2024-10-27T09:50:00.000Z,web-1,sshd,192.168.1.100,ban,unknown,unknown\n" +
	"2024-10-27T09:59:59.000Z,web-1,sshd,192.168.1.100,unban,unknown,unknown\n" +
	"2024-10-27T10:00:00.000Z,web-1,sshd,192.168.1.100,restore,unknown,unknown\n"

// A format is given by its name in the configuration or as a pattern.
func TestReportLineFormat(t *testing.T) {
	file := filepath.Join(t.TempDir(), "own.log")
	if err := os.WriteFile(file, []byte(dashedLog), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"dashed", "<time> - <action> - <ip> - <jail>"} {
		c := call(t, "", "report", "events", "--input", "web-1="+file, "--timezone", "UTC", "--format", "csv", "--line-format", format, "--config.file", "testdata/formats.yaml")
		if c.code != exitDone || c.errors != "" {
			t.Fatalf("%s: code %d, %s", format, c.code, c.errors)
		}
		if diff := cmp.Diff(dashedEvents, c.out); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

func TestReportLineFormatMistakes(t *testing.T) {
	for _, tt := range []struct {
		format, want string
		code         int
	}{
		{"mine", `--line-format: "mine" is no entry of ` + "`formats` in testdata/formats.yaml, and no pattern: that holds parts like <ip>", exitUsage},
		{"<ip>", "--line-format: it names too little; name `message` (fail2ban's own text), or `action` and `ip`", exitUsage},
	} {
		c := call(t, dashedLog, "report", "-", "--line-format", tt.format, "--config.file", "testdata/formats.yaml")
		if c.code != tt.code || !strings.Contains(c.errors, tt.want) {
			t.Errorf("%s: code %d, %s", tt.format, c.code, c.errors)
		}
	}
	if c := call(t, "", "report", "--line-format", "<ip> <action>"); c.code != exitUsage || !strings.Contains(c.errors, "is for files") {
		t.Errorf("without a file: code %d, %s", c.code, c.errors)
	}
}

// Each example of the documentation reads its line.
func TestExampleFormats(t *testing.T) {
	cfg, err := config.LoadFile("testdata/formats.yaml", false, config.Validators{Query: loki.ValidateQuery, Format: checkFormat})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	shown, err := os.ReadFile("testdata/formats.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, formats, _ := strings.Cut(string(shown), "formats:\n")
	if !strings.Contains(string(doc), "formats:\n"+formats) {
		t.Error("docs/formats.md shows other formats than testdata/formats.yaml")
	}
	for name, tt := range map[string]struct {
		line string
		want fail2ban.Event
	}{
		"dashed": {"2024-10-27 10:00:00 - Restore Ban - 192.168.1.100 - sshd", fail2ban.Event{
			Time: time.Date(2024, 10, 27, 10, 0, 0, 0, time.UTC), Kind: fail2ban.RestoreBan, Jail: "sshd", ID: "192.168.1.100",
		}},
		"key-value": {"2026-11-22 20:16:34,418 host=web-1 lvl=NOTICE src=fail2ban.actions msg=[sshd] Ban 192.0.2.1", fail2ban.Event{
			Time: time.Date(2026, 11, 22, 20, 16, 34, 418e6, time.UTC), Kind: fail2ban.Ban, Jail: "sshd", ID: "192.0.2.1", Host: "web-1",
		}},
		"csv": {"1795378594418,mail-1,dovecot,unban,2001:db8::1", fail2ban.Event{
			Time: time.Date(2026, 11, 22, 20, 16, 34, 418e6, time.UTC), Kind: fail2ban.Unban, ID: "2001:db8::1", Host: "mail-1", Service: "dovecot",
		}},
	} {
		f, err := newFormat(cfg.FormatNamed(name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(doc), tt.line) {
			t.Errorf("docs/formats.md does not show %q", tt.line)
		}
		var ev fail2ban.Event
		if err := fail2ban.NewParser(fail2ban.Options{Format: f, Location: time.UTC}).Parse([]byte(tt.line), time.Time{}, &ev); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ev.Addr = tt.want.Addr
		if diff := cmp.Diff(tt.want, ev, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }), cmp.Comparer(func(a, b fail2ban.Kind) bool { return a == b }),
			cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Addr" }, cmp.Ignore())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The parser's fields and the configuration's are the same list.
func TestMessageFieldsAgree(t *testing.T) {
	if !slices.Equal(config.DefaultSource.Fields, fail2ban.DefaultMessageFields) {
		t.Error(config.DefaultSource.Fields, fail2ban.DefaultMessageFields)
	}
}

// What shippers call the writer's thread and process, as metadata or labels.
func TestJournalNames(t *testing.T) {
	s := newLokiSource(&config.Source{Name: "loki", HostLabels: []string{"host", "node"}, JailLabel: "jail"}, nil)
	s.lines = map[*loki.Stream]pipeline.Line{}
	names := [][2]string{
		{"THREAD_NAME", "_PID"},
		{"thread_name", "pid"},
		{"__journal_thread_name", "__journal__pid"},
		{"journal_thread_name", "journal__pid"},
		{"_journal_thread_name", "journal_pid"},
	}
	for _, n := range names {
		want := pipeline.Line{Host: "web-1", Stream: "k", Thread: "MainThread", PID: 77, Jail: "sshd", Text: "x"}
		kept := map[string]string{n[0]: "MainThread", n[1]: "77", "jail": "sshd"}
		labels := map[string]string{"node": "web-1"}
		got := s.line(loki.Entry{Line: "x", Stream: &loki.Stream{Labels: labels, Key: "k"}, Metadata: kept})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metadata %v: %s", n, diff)
		}
		maps.Copy(labels, kept)
		if diff := cmp.Diff(want, s.describe(&loki.Stream{Labels: labels, Key: "k"}), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Text" }, cmp.Ignore())); diff != "" {
			t.Errorf("labels %v: %s", n, diff)
		}
	}
	if l := s.describe(&loki.Stream{Labels: map[string]string{"job": "x"}}); l.Host != "loki" || !l.Unnamed {
		t.Errorf("%+v", l)
	}
}
