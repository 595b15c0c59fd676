package publish

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with testdata/NAME, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatalf("write golden file: %v", err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read golden file (make it with -update): %v", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", file, diff)
	}
}

// hostile are ids as an attacker may get them into a log.
var hostile = []string{
	"=cmd|' /C calc'!A0",
	"@SUM(1+1)",
	"two\nlines",
	`quote"and\slash`,
	"\x1b[2J\x1b[31mred",
	"bad\xff\xfeutf8",
	"a b=c",
	"turn\u202eed \u009b31m",
	"tag\U000E0041",
	strings.Repeat("x", 200),
	"",
}

func at(clock string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05.000", "2026-03-01 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func restoreOf(id string) *correlate.Restore {
	return &correlate.Restore{
		Time: at("10:00:12.345"), Host: "web1", Jail: "sshd", ID: id, Cause: correlate.CleanRestart, Confidence: correlate.Certain,
		RestartStarted: at("10:00:11.000"), BanStarted: at("09:50:00.000"), BanTime: correlate.Known(time.Hour), PlannedEnd: correlate.End{At: at("10:50:00.000")},
		Remaining: correlate.Known(2987655 * time.Millisecond), Lifted: at("10:00:02.000"), LiftedBy: correlate.LiftedStop,
		Gap: correlate.Known(10345 * time.Millisecond), GapMax: correlate.Known(10345 * time.Millisecond), GapFailures: 2,
		Number: correlate.Known(1), FailedAgain: correlate.Known(true),
	}
}

// findings is one finding of each kind, on two hosts and not in order.
func findings() []correlate.Finding {
	restore := restoreOf("192.0.2.1")
	gap := restoreOf("192.0.2.9")
	gap.Cause, gap.BanTime, gap.PlannedEnd = correlate.Gap, correlate.Known(time.Duration(-1)), correlate.End{Never: true}
	orphan := &correlate.Restore{Time: at("10:00:13.000"), Host: "web2", Jail: "sshd", ID: "2001:db8::1", Cause: correlate.Orphan, Confidence: correlate.Certain, LiftedBy: correlate.LiftedUnknown}
	back := &correlate.Reoffence{
		Host: "web1", Jail: "sshd", ID: "192.0.2.3", PreviousEnded: at("11:00:00.000"), PreviousEndedBy: correlate.EndedManual,
		Time: at("11:30:00.500"), Delay: 1800500 * time.Millisecond, Premature: true, PreviousBanTime: correlate.Known(10 * time.Minute),
	}
	open := &correlate.Ban{
		Host: "web1", Jail: "sshd", ID: "192.0.2.3", Started: at("11:30:00.500"), EndedBy: correlate.EndedOpen, Confidence: correlate.Certain, Origin: correlate.New,
		BanTime: correlate.Known(10 * time.Minute), BanTimeSource: "settings", PlannedEnd: correlate.End{At: at("11:40:00.000")}, Failures: 5, Count: 2,
		Reoffence: correlate.Known(1800500 * time.Millisecond),
	}
	ended := *open
	ended.Ended, ended.EndedBy, ended.Banned, ended.Gap, ended.Restores = at("11:40:00.000"), correlate.EndedExpired, 580*time.Second, 19500*time.Millisecond, 1
	ended.NextFailure = correlate.Known(time.Minute)
	unseen := &correlate.Ban{Host: "web2", Jail: "sshd", ID: "2001:db8::1", Ended: at("12:00:00.000"), EndedBy: correlate.EndedManual, Confidence: correlate.Unsure, Origin: correlate.CauseUnknown, BanTimeSource: "unknown"}
	lost := &correlate.Lost{Host: "web1", Jail: "sshd", ID: "192.0.2.4", BanStarted: at("09:00:00.000"), Lifted: at("10:00:02.001"), PlannedEnd: correlate.End{Never: true}, RestartStarted: at("10:00:11.000"), Confidence: correlate.Likely}
	restart := &correlate.Restart{Host: "web1", Scope: "server", Kind: "clean", Confidence: correlate.Certain, Stopped: at("10:00:02.000"), Started: at("10:00:11.000"), Down: correlate.Known(9 * time.Second), ActiveBefore: 3, Restored: 2, Lost: 1, GapFailures: 2}
	crash := &correlate.Restart{Host: "web2", Scope: "sshd", Kind: "jail", Confidence: correlate.Likely, Stopped: at("08:00:00.000"), Started: at("08:10:00.000")}
	seen := &correlate.Occurrence{Time: at("09:49:59.999"), Host: "web1", Jail: "sshd", ID: "192.0.2.1", Event: "found", Confidence: correlate.Certain}

	all := []correlate.Finding{
		{Kind: correlate.FindingBan, Time: at("11:40:00.000"), Host: "web1", Jail: "sshd", ID: "192.0.2.3", Ban: &ended},
		{Kind: correlate.FindingBan, Time: at("12:00:00.000"), Host: "web2", Jail: "sshd", ID: "2001:db8::1", Ban: unseen},
		{Kind: correlate.FindingRestart, Time: restart.Started, Host: "web1", Restart: restart},
		{Kind: correlate.FindingRestart, Time: crash.Started, Host: "web2", Jail: "sshd", Restart: crash},
		{Kind: correlate.FindingRestore, Time: restore.Time, Host: "web1", Seq: 7, Jail: "sshd", ID: "192.0.2.1", Restore: restore},
		{Kind: correlate.FindingGap, Time: restore.Time, Host: "web1", Seq: 7, Jail: "sshd", ID: "192.0.2.1", Restore: restore},
		{Kind: correlate.FindingGap, Time: gap.Time, Host: "web1", Seq: 8, Jail: "sshd", ID: "192.0.2.9", Restore: gap},
		{Kind: correlate.FindingRestore, Time: orphan.Time, Host: "web2", Jail: "sshd", ID: "2001:db8::1", Restore: orphan},
		{Kind: correlate.FindingLost, Time: lost.Lifted, Host: "web1", Jail: "sshd", ID: "192.0.2.4", Lost: lost},
		{Kind: correlate.FindingReoffence, Time: back.Time, Host: "web1", Seq: 9, Jail: "sshd", ID: "192.0.2.3", Reoffence: back},
		{Kind: correlate.FindingPrematureUnban, Time: back.Time, Host: "web1", Seq: 9, Jail: "sshd", ID: "192.0.2.3", Reoffence: back},
		{Kind: correlate.FindingBan, Time: at("11:30:00.500"), Host: "web1", Seq: 9, Jail: "sshd", ID: "192.0.2.3", Ban: open},
		{Kind: correlate.FindingEvent, Time: seen.Time, Host: "web1", Jail: "sshd", ID: "192.0.2.1", Event: seen},
	}
	return all
}

func histogram(bounds []float64, values ...float64) correlate.Histogram {
	h := correlate.Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
	for _, v := range values {
		h.Observe(time.Duration(v * float64(time.Second)))
	}
	return h
}

// report is two hosts whose log shows 512 bans, 123 of them real.
func report() correlate.Report {
	gaps, delays := correlate.GapBounds, correlate.ReoffenceBounds
	sshd := correlate.JailReport{
		Jail: "sshd", FirstLine: at("00:00:01.000"), LastLine: at("21:30:00.000"), Running: correlate.Known(true), BanTime: correlate.Known(time.Hour), FindTime: correlate.Known(10 * time.Minute), MaxRetry: correlate.Known(5),
		Counts: correlate.Counts{
			Verbs: [11]uint64{5120, 70, 230, 280, 3, 1, 2, 4, 5, 6, 7}, Failures: 5118, Bans: [4]uint64{60, 1, 2, 3}, Restored: [6]uint64{200, 20, 5, 1, 2, 2}, Reread: 4,
			Unbans: [5]uint64{150, 120, 5, 4, 1}, Lost: 3, GapFailures: 17, Reoffences: 21, PrematureUnbans: 1, FailuresWhileBanned: 8, ActionErrors: 9,
		},
		BannedNow: 12, Unprotected: 2, GapSeconds: histogram(gaps, .5, 4, 10, 600), Reoffence: histogram(delays, 30, 7200),
	}
	recidive := correlate.JailReport{
		Jail: "recidive", FirstLine: at("00:00:02.000"), LastLine: at("20:00:00.000"), Running: correlate.Known(true), BanTime: correlate.Known(time.Duration(-1)),
		Counts: correlate.Counts{Verbs: [11]uint64{9, 7, 2}, Failures: 9, Bans: [4]uint64{7}, Restored: [6]uint64{2}}, BannedNow: 7,
		GapSeconds: histogram(gaps), Reoffence: histogram(delays),
	}
	web2 := correlate.JailReport{
		Jail: "sshd", FirstLine: at("00:10:00.000"), LastLine: at("21:00:00.000"),
		Counts:    correlate.Counts{Verbs: [11]uint64{900, 55, 148, 190}, Failures: 900, Bans: [4]uint64{50}, Restored: [6]uint64{148}, Reread: 5, Unbans: [5]uint64{40, 150}},
		BannedNow: 3, GapSeconds: histogram(gaps, 20), Reoffence: histogram(delays),
	}
	return correlate.Report{At: at("21:30:00.000"), Hosts: []correlate.HostReport{
		{
			Host: "web1", FirstLine: at("00:00:01.000"), LastLine: at("21:30:00.000"), Running: correlate.Known(true), Started: at("10:00:11.500"), Version: "1.1.0",
			Restarts: map[string]uint64{"clean": 5, "crash": 1, "unknown": 0}, Jails: []correlate.JailReport{recidive, sshd},
		},
		{
			Host: "web2", FirstLine: at("00:10:00.000"), LastLine: at("21:00:00.000"), Running: correlate.Known(false),
			Restarts: map[string]uint64{"clean": 3, "crash": 0, "unknown": 0}, Jails: []correlate.JailReport{web2},
		},
	}}
}

func offenders() []offender.Row {
	rows := []offender.Row{
		{
			Rank: 1, ID: "192.0.2.3", Score: 12.3456, Scored: true, Bans: 9, Restores: 31, Failures: 140, GapFailures: 3, Hosts: 2, Jails: 2, FirstSeen: at("00:00:02.000"),
			LastSeen: at("21:29:00.000"), LastBan: at("21:00:00.250"), BannedNow: true, Escalated: true,
			BannedWhere: []offender.Place{{Host: "web1", Jail: "recidive"}, {Host: "web1", Jail: "sshd"}}, Network: "192.0.2.0/24", Country: "NL", ASN: "64496",
		},
		{Rank: 2, ID: "2001:db8:1234:5678:9abc:def0:1234:5678/128", Bans: 4, Restores: 2, Failures: 20, Hosts: 1, Jails: 1, LastBan: at("20:00:00.000")},
	}
	for i, id := range hostile[:8] {
		rows = append(rows, offender.Row{Rank: i + 3, ID: id, Bans: 1, Failures: 5, Hosts: 1, Jails: 1})
	}
	return append(rows, offender.Row{Rank: 11, ID: "198.51.100.7", Bans: 1})
}

func networkRows() []offender.Network {
	return []offender.Network{
		{Rank: 1, Network: "192.0.2.0/24", Score: 31.25, Offenders: 3, Bans: 11, Failures: 60, Hosts: 2, Share: 3.0 / 256},
		{Rank: 2, Network: "2001:db8::/48", Score: 16, Offenders: 1, Bans: 1, Hosts: 1, Share: 1.0 / (1 << 16) / (1 << 64)},
	}
}

func spans() *Spans {
	s := &Spans{}
	for _, f := range findings() {
		s.Add(&f)
	}
	return s
}

func summary() Summary {
	return Summary{At: at("22:00:00.000"), Sources: []SourceReport{{Name: "main", Report: report(), Spans: spans()}}, Offenders: offenders()}
}
