package e2e

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// The jails of the recording. Their ban times leave no doubt: only in `short`
// do bans expire, and none is left there when the first stop comes.
const (
	long    = "long"
	short   = "short"
	lowered = "lowered" // its ban time is lowered while the server is down
)

// lowTime is the ban time of jail lowered after that: longer than a start
// takes, so that an attack just before it is still worth a ban.
const lowTime = 20 * time.Second

// verdict is one row of `report events`, without its host.
type verdict struct {
	time                   time.Time
	jail, id, event, cause string
	confidence             string // as reported
}

func (v verdict) String() string {
	return fmt.Sprintf("%s %s %s by %s", v.jail, v.id, v.event, v.cause)
}

// effect is what a step of the script leads to: an action of one address, and
// its cause. Where fail2ban's database and its watched log race at a start,
// both outcomes are named: the action's own flag decides.
type effect struct {
	jail, id string
	causes   map[string]string // event: cause
}

// A recording made afresh with the installed fail2ban: what the exporter says of
// its log, from the file and through Loki, is what the script did and what
// fail2ban made its actions execute.
func TestRealFail2ban(t *testing.T) {
	f, err := lab.NewFail2ban(t.TempDir())
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v; `apt-get install fail2ban` brings it, and CI=1 makes this an error", err)
	}
	began := time.Now()
	truth := record(t, f)
	t.Logf("%d actions in %s:\n%s", len(truth), time.Since(began).Round(time.Second), list(truth))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(f.LogFile())
			t.Logf("fail2ban's log:\n%s", log)
		}
	})

	log, err := os.ReadFile(f.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	r := &lab.Recording{Name: "fresh", Hosts: []lab.Host{{
		Name: "web-1", File: f.LogFile(), Lines: strings.Split(strings.TrimRight(string(log), "\n"), "\n"),
	}}}
	push(t, "fresh", r)
	stored := config{tenant: "fresh"}.write(t)
	reports := map[string][][]string{}
	for _, kind := range []string{"events", "restores", "bans", "restarts"} {
		report := []string{
			"report", kind, "--format", "csv",
			"--from", began.Add(-time.Minute).UTC().Format(time.RFC3339), "--to", time.Now().Add(time.Second).UTC().Format(time.RFC3339),
		}
		file := succeed(t, slices.Concat(report, []string{"--timezone", "UTC", "--input", "web-1=" + f.LogFile()})...)
		if got := succeed(t, slices.Concat(report, []string{"--config.file", stored})...); got != file {
			t.Errorf("%s: %s", kind, difference(got, file))
		}
		reports[kind] = columns(t, file, map[string][]string{
			"events":   {"time", "jail", "id", "event", "cause", "confidence"},
			"restores": {"jail", "id", "cause"},
			"bans":     {"jail", "id", "origin"},
			"restarts": {"scope", "kind", "active_before", "restored", "ended_meanwhile", "lost"},
		}[kind])
	}

	sameVerdicts(t, verdictsOf(t, reports["events"]), truth)
	sameRows(t, "restores", reports["restores"], rowsOf(truth, "restore"))
	trueBans := slices.DeleteFunc(rowsOf(truth, "ban"), func(row []string) bool { return row[2] == "reread" })
	sameRows(t, "bans", reports["bans"], trueBans)
	sameRows(t, "restarts", reports["restarts"], [][]string{
		{long, "jail", "2", "2", "0", "0"},      // restart long
		{"server", "clean", "3", "3", "0", "0"}, // by the client
		{"server", "crash", "4", "4", "0", "0"}, // kill -9
		{"server", "clean", "5", "5", "0", "0"}, // by SIGTERM
	})
}

// record lets a real fail2ban live through all that lifts and imposes bans. Each
// step waits for its effect.
func record(t *testing.T, f *lab.Fail2ban) []verdict {
	const (
		stays    = "192.0.2.10" // banned in jail long, comes back with each start
		pardoned = "192.0.2.11"
		byHand   = "198.51.100.12"
		expiring = "198.51.100.13"
		newcomer = "2001:db8::14" // attacks while the server is stopped
		crasher  = "203.0.113.15" // attacks while it is crashed
		gapped   = "203.0.113.16" // its row is too old for the lowered ban time: only its attack bans it again
	)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	t.Cleanup(f.End)
	s := &script{t: t, ctx: ctx, f: f}
	f.Jails = []lab.Jail{
		{Name: long, BanTime: time.Hour, MaxRetry: 3},
		{Name: short, BanTime: 4 * time.Second, MaxRetry: 2},
		{Name: lowered, BanTime: 10 * time.Minute, MaxRetry: 2},
	}

	s.do(f.Start(ctx))
	s.attack(long, stays)
	s.attack(lowered, gapped)
	s.await(ban(long, stays, "new"), ban(lowered, gapped, "new"))
	oldRow := time.Now()
	s.do(f.Client(ctx, "set", long, "banip", byHand))
	s.await(ban(long, byHand, "manual"))
	s.attack(long, pardoned)
	s.await(ban(long, pardoned, "new"))
	s.do(f.Client(ctx, "set", long, "unbanip", pardoned))
	s.await(unban(long, pardoned, "manual"))
	s.attack(short, expiring)
	s.await(ban(short, expiring, "new"), unban(short, expiring, "expired"))

	s.do(f.Client(ctx, "restart", long))
	s.await(
		unban(long, stays, "jail_stop"), unban(long, byHand, "jail_stop"),
		restore(long, stays, "jail_restart"), restore(long, byHand, "jail_restart"),
	)

	s.do(f.Stop(ctx))
	s.await(unban(long, stays, "shutdown"), unban(long, byHand, "shutdown"), unban(lowered, gapped, "shutdown"))
	s.attack(long, stays)
	s.attack(long, newcomer)
	s.do(f.Start(ctx))
	s.await(
		race(long, stays, "gap", "clean_restart"), restore(long, byHand, "clean_restart"),
		ban(long, newcomer, "new"), restore(lowered, gapped, "clean_restart"),
	)

	s.do(f.Kill(ctx))
	s.attack(long, crasher)
	s.do(f.Start(ctx))
	s.await( // the failures of the last start are read again, unless the database is faster
		race(long, stays, "reread", "crash"), race(long, newcomer, "reread", "crash"), restore(long, byHand, "crash"),
		ban(long, crasher, "new"), restore(lowered, gapped, "crash"),
	)

	s.do(f.Terminate(ctx))
	s.await(
		unban(long, stays, "shutdown"), unban(long, newcomer, "shutdown"), unban(long, byHand, "shutdown"),
		unban(long, crasher, "shutdown"), unban(lowered, gapped, "shutdown"),
	)
	f.Jails[2].BanTime = lowTime
	s.do(lab.Poll(ctx, func() error {
		if age := time.Since(oldRow); age < lowTime+2*time.Second {
			return fmt.Errorf("the ban of %s is only %s old", gapped, age)
		}
		return nil
	}))
	s.attack(lowered, gapped)
	s.do(f.Start(ctx))
	s.await(
		restore(long, stays, "clean_restart"), restore(long, newcomer, "clean_restart"), restore(long, byHand, "clean_restart"),
		restore(long, crasher, "clean_restart"), ban(lowered, gapped, "gap"),
	)

	s.do(f.Stop(ctx))
	s.await(
		unban(long, stays, "shutdown"), unban(long, newcomer, "shutdown"), unban(long, byHand, "shutdown"),
		unban(long, crasher, "shutdown"), unban(lowered, gapped, "shutdown"),
	)
	if rest := s.fresh(); len(rest) > 0 {
		t.Fatalf("fail2ban did more than the script led to: %v", rest)
	}
	return s.truth
}

func ban(jail, id, cause string) effect { return effect{jail, id, map[string]string{"ban": cause}} }
func restore(jail, id, cause string) effect {
	return effect{jail, id, map[string]string{"restore": cause}}
}

func unban(jail, id, cause string) effect {
	return effect{jail, id, map[string]string{"unban": cause}}
}

func race(jail, id, asBan, asRestore string) effect {
	return effect{jail, id, map[string]string{"ban": asBan, "restore": asRestore}}
}

// script drives a fail2ban and keeps the truth.
type script struct {
	t     *testing.T
	ctx   context.Context
	f     *lab.Fail2ban
	taken int // rows of the trace
	truth []verdict
}

func (s *script) do(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) attack(jail, id string) {
	s.t.Helper()
	s.do(s.f.Attack(jail, id))
}

// fresh lists the bans and unbans executed since the last step.
func (s *script) fresh() (rows []lab.Action) {
	s.t.Helper()
	trace, err := s.f.Trace()
	s.do(err)
	for _, a := range trace[s.taken:] {
		if a.Op == "ban" || a.Op == "unban" {
			rows = append(rows, a)
		}
	}
	return rows
}

// await waits until the step's effects were executed, all and no others.
func (s *script) await(effects ...effect) {
	s.t.Helper()
	s.do(lab.Poll(s.ctx, func() error {
		if rows := s.fresh(); len(rows) < len(effects) {
			return fmt.Errorf("fail2ban did only %v", rows)
		}
		return nil
	}))
	for _, a := range s.fresh() {
		event := a.Op
		if a.Restored && a.Op == "ban" {
			event = "restore"
		}
		i := slices.IndexFunc(effects, func(e effect) bool { return e.jail == a.Jail && e.id == a.ID && e.causes[event] != "" })
		if i < 0 {
			s.t.Fatalf("fail2ban did %v; the script led to %v only", a, effects)
		}
		s.truth = append(s.truth, verdict{time: a.Time, jail: a.Jail, id: a.ID, event: event, cause: effects[i].causes[event]})
		effects = slices.Delete(effects, i, i+1)
	}
	trace, err := s.f.Trace()
	s.do(err)
	s.taken = len(trace)
}

// sameVerdicts compares what was reported with the truth, address by address
// in the order of time.
func sameVerdicts(t *testing.T, got, want []verdict) {
	t.Helper()
	const near = 3 * time.Second // the action follows its line by what it takes to run
	order := func(a, b verdict) int {
		if c := strings.Compare(a.jail+" "+a.id, b.jail+" "+b.id); c != 0 {
			return c
		}
		return a.time.Compare(b.time)
	}
	slices.SortStableFunc(got, order)
	slices.SortStableFunc(want, order)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i].String() != want[i].String() {
			t.Fatalf("verdict %d of the sorted ones: reported\n%s\ntruly\n%s", i+1, list(got), list(want))
		}
		if d := got[i].time.Sub(want[i].time).Abs(); d > near {
			t.Errorf("%v: %s apart from the truth", got[i], d)
		}
	}
}

func list(vs []verdict) string {
	var b strings.Builder
	for _, v := range vs {
		fmt.Fprintf(&b, "  %s %v\n", v.time.Format("15:04:05.000"), v)
	}
	return b.String()
}

// verdictsOf reads the bans, restores and unbans of `report events`.
func verdictsOf(t *testing.T, rows [][]string) (vs []verdict) {
	t.Helper()
	for _, r := range rows {
		if r[3] != "ban" && r[3] != "restore" && r[3] != "unban" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, r[0])
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, verdict{at, r[1], r[2], r[3], r[4], r[5]})
	}
	return vs
}

func rowsOf(vs []verdict, event string) (rows [][]string) {
	for _, v := range vs {
		if v.event == event {
			rows = append(rows, []string{v.jail, v.id, v.cause})
		}
	}
	return rows
}

// sameRows compares rows in any order.
func sameRows(t *testing.T, what string, got, want [][]string) {
	t.Helper()
	text := func(rows [][]string) string {
		var lines []string
		for _, r := range rows {
			lines = append(lines, strings.Join(r, ","))
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	if g, w := text(got), text(want); g != w {
		t.Errorf("%s:\n%s\nwant\n%s", what, g, w)
	}
}

// columns reads some columns of a CSV report.
func columns(t *testing.T, report string, names []string) (rows [][]string) {
	t.Helper()
	all, err := csv.NewReader(strings.NewReader(report)).ReadAll()
	if err != nil || len(all) == 0 {
		t.Fatalf("%v in\n%s", err, report)
	}
	for _, r := range all[1:] {
		var row []string
		for _, name := range names {
			i := slices.Index(all[0], name)
			if i < 0 {
				t.Fatalf("no column %s in %v", name, all[0])
			}
			row = append(row, r[i])
		}
		rows = append(rows, row)
	}
	return rows
}
