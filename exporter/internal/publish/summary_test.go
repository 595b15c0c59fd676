package publish

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

func TestSummary(t *testing.T) {
	two := summary()
	two.Sources = append(two.Sources, SourceReport{Name: "=branch\x1b[2J", Report: report()})
	for name, s := range map[string]Summary{"summary.txt": summary(), "summary-empty.txt": {}, "summary-sources.txt": two} {
		var b strings.Builder
		if err := WriteSummary(&b, s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(b.String(), "\n"), "\n") {
			if n := utf8.RuneCountInString(line); n > 100 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
			if strings.ContainsFunc(line, unprintable) {
				t.Errorf("%s: a terminal obeys %q", name, line)
			}
		}
		golden(t, name, b.String())
	}
}

func TestVerdict(t *testing.T) {
	one := hostSummary{counts: correlate.Counts{Verbs: [11]uint64{0, 2, 1}, Bans: [4]uint64{1}, Restored: [6]uint64{1}}, restarts: [3]uint64{1}}
	want := "The log shows 3 bans. 1 was real; 1 was a restore after 1 restart; 0 re-reads.\n" +
		"1 was not settled yet: the log does not reach far enough to tell.\n"
	if got := verdict(&one); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// A gap counts once however often it is said, and only where the log measured it.
func TestSpans(t *testing.T) {
	s := spans()
	if got := len(s.hostGaps("web1")); got != 2 {
		t.Fatalf("%d gaps of web1, want the restore's and the gap ban's", got)
	}
	if got := len(s.hostGaps("web2")); got != 0 {
		t.Fatalf("%d gaps of an orphan", got)
	}
	if got := s.Reoffence("web1", "sshd"); !got.OK || got.V != 1800500*time.Millisecond {
		t.Fatalf("median re-offence %v", got)
	}
	if got := (*Spans)(nil).Reoffence("web1", "sshd"); got.OK {
		t.Fatalf("no spans, and yet %v", got)
	}
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{[]time.Duration{3, 1, 2}, 2}, {[]time.Duration{4, 1, 3, 2}, 2}, {[]time.Duration{5}, 5}} {
		if got := median(c.in); got.V != c.want {
			t.Errorf("median of %v: %v", c.in, got.V)
		}
	}
}
