package correlate

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the expectations of the scenarios anew")

// A scenario is a file a person can read: what a host logged (`-- log --`, or
// `-- log HOST --`), what each event was (`-- events --`) and what is said of
// it (`-- findings --`).
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := linesOf(ar)
			e := NewEngine(Options{Events: true, Rows: true})
			feed(t, e, lines)
			e.Finish(e.Newest())
			events, findings := tell(e.Findings())
			checkIdentity(t, e)
			if *update {
				set(ar, "events", events)
				set(ar, "findings", findings)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compare(t, "events", get(ar, "events"), events)
			compare(t, "findings", get(ar, "findings"), findings)
		})
	}
}

func compare(t *testing.T, what, want, got string) {
	t.Helper()
	if want != got {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// logLine is a line of a host.
type logLine struct{ host, text string }

func linesOf(ar *txtar.Archive) (out []logLine) {
	for _, f := range ar.Files {
		kind, host, _ := strings.Cut(f.Name, " ")
		if kind != "log" {
			continue
		}
		if host == "" {
			host = "web-1"
		}
		for line := range bytes.Lines(f.Data) {
			out = append(out, logLine{host, strings.TrimSuffix(string(line), "\n")})
		}
	}
	return out
}

// feed reads lines as a report does.
func feed(t testing.TB, e *Engine, lines []logLine) {
	t.Helper()
	feedWith(t, e, lines, time.UTC)
}

func feedWith(t testing.TB, e *Engine, lines []logLine, zone *time.Location) {
	t.Helper()
	for _, ev := range read(lines, zone) {
		e.Add(ev.host, &ev.ev)
	}
}

type hostEvent struct {
	host string
	ev   fail2ban.Event
}

func read(lines []logLine, zone *time.Location) (out []hostEvent) {
	parsers := map[string]*fail2ban.Parser{}
	for _, l := range lines {
		p := parsers[l.host]
		if p == nil {
			p = fail2ban.NewParser(fail2ban.Options{Location: zone, Newest: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)})
			parsers[l.host] = p
		}
		var ev fail2ban.Event
		if err := p.Parse([]byte(l.text), time.Time{}, &ev); err == nil && !ev.Time.IsZero() {
			out = append(out, hostEvent{l.host, ev})
		}
	}
	return out
}

// tell writes findings as the scenarios show them.
func tell(fs []Finding) (events, findings string) {
	slices.SortStableFunc(fs, Compare)
	var a, b strings.Builder
	for _, f := range fs {
		if f.Kind == FindingEvent {
			o := f.Event
			line := fmt.Sprintf("%s %-14s %-6s %-16s %-13s %s %s", clock(o.Time), o.Event, o.Jail, o.ID, o.Cause, o.Confidence, o.Detail)
			fmt.Fprintln(&a, strings.TrimRight(line, " "))
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", f.Kind, describeFinding(f))
	}
	return a.String(), b.String()
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format("15:04:05.000")
}

func describeFinding(f Finding) string {
	switch {
	case f.Ban != nil:
		b := f.Ban
		s := fmt.Sprintf("%s %s origin=%s started=%s ended=%s ended_by=%s %s bantime=%s(%s) planned_end=%s banned=%v gap=%v restores=%d failures=%d count=%d",
			b.Jail, b.ID, b.Origin, clock(b.Started), clock(b.Ended), b.EndedBy, b.Confidence, maybe(b.BanTime), b.BanTimeSource, end(b.PlannedEnd),
			b.Banned, b.Gap, b.Restores, b.Failures, b.Count)
		return s + fmt.Sprintf(" reoffence=%s next_failure=%s", maybe(b.Reoffence), maybe(b.NextFailure))
	case f.Restore != nil:
		r := f.Restore
		return fmt.Sprintf("%s %s %s cause=%s %s ban_started=%s planned_end=%s remaining=%s lifted=%s by=%s gap=%s max=%s gap_failures=%d number=%s failed_again=%s",
			clock(r.Time), r.Jail, r.ID, r.Cause, r.Confidence, clock(r.BanStarted), end(r.PlannedEnd), maybe(r.Remaining), clock(r.Lifted), r.LiftedBy,
			maybe(r.Gap), maybe(r.GapMax), r.GapFailures, maybe(r.Number), maybe(r.FailedAgain))
	case f.Lost != nil:
		l := f.Lost
		return fmt.Sprintf("%s %s ban_started=%s lifted=%s planned_end=%s restart=%s", l.Jail, l.ID, clock(l.BanStarted), clock(l.Lifted), end(l.PlannedEnd), clock(l.RestartStarted))
	case f.Reoffence != nil:
		r := f.Reoffence
		return fmt.Sprintf("%s %s previous_ended=%s by=%s time=%s delay=%v premature=%v", r.Jail, r.ID, clock(r.PreviousEnded), r.PreviousEndedBy, clock(r.Time), r.Delay, r.Premature)
	default:
		r := f.Restart
		return fmt.Sprintf("%s %s %s stopped=%s started=%s down=%s active=%d restored=%d over=%d lost=%d gap_failures=%d",
			r.Scope, r.Kind, r.Confidence, clock(r.Stopped), clock(r.Started), maybe(r.Down), r.ActiveBefore, r.Restored, r.EndedMeanwhile, r.Lost, r.GapFailures)
	}
}

func maybe[T any](m Maybe[T]) string {
	if !m.OK {
		return "?"
	}
	return fmt.Sprint(m.V)
}

func end(e End) string {
	if e.Never {
		return "never"
	}
	return clock(e.At)
}

// checkIdentity holds the identity of the rules: lines that say a ban are true
// bans, restored ones or re-reads.
func checkIdentity(t testing.TB, e *Engine) {
	t.Helper()
	for _, h := range e.Report(false).Hosts {
		for _, j := range h.Jails {
			c := j.Counts
			if got := c.TrueBans() + c.RestoredBans() + c.Reread; got != c.LogBans() {
				t.Errorf("%s %s: %d true + %d restored + %d re-read, the log says %d", h.Host, j.Jail, c.TrueBans(), c.RestoredBans(), c.Reread, c.LogBans())
			}
		}
	}
}

func get(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func set(ar *txtar.Archive, name, data string) {
	for i := range ar.Files {
		if ar.Files[i].Name == name {
			ar.Files[i].Data = []byte(data)
			return
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(data)})
}
