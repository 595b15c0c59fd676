package publish

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/google/go-cmp/cmp"
)

// The columns are the interface: users' scripts read them by name.
func TestColumns(t *testing.T) {
	want := map[string]string{
		"events":     "time,host,jail,id,event,cause,confidence",
		"restores":   "time,host,jail,id,cause,confidence,restart_started,ban_started,bantime_seconds,planned_end,remaining_seconds,lifted,lifted_by,gap_seconds,gap_max_seconds,gap_failures,restore_number,failed_again",
		"bans":       "host,jail,id,started,ended,ended_by,confidence,origin,bantime_seconds,bantime_source,planned_end,banned_seconds,gap_seconds,restores,failures,ban_count,reoffence_seconds,next_failure_seconds",
		"restarts":   "host,scope,kind,confidence,stopped,started,down_seconds,active_before,restored,ended_meanwhile,lost,gap_failures",
		"lost":       "host,jail,id,ban_started,lifted,planned_end,restart_started,confidence",
		"reoffences": "host,jail,id,previous_ended,previous_ended_by,time,delay_seconds,premature,previous_bantime_seconds",
		"offenders":  "rank,id,score,bans,restores,failures,gap_failures,hosts,jails,first_seen,last_seen,last_ban,banned_now,banned_where,escalated,network,country,asn",
		"networks":   "rank,network,score,offenders,bans,failures,hosts,share",
		"returns": "host,jail,ends,reoffences,median_seconds,away_1h,away_1d,away_7d,away_30d,next_failures,next_failure_median_seconds," +
			"no_failure_1h,no_failure_1d,no_failure_7d,no_failure_30d,banned_hours,failures_before_per_hour,failures_during_per_hour,failures_after_per_hour",
		"campaigns": "rank,ids,networks,hosts,jails,started,ended,failures,bans",
		"advice":    "host,jail,bantime,reoffences,within_1h,within_1d,within_7d,suggested_bantime,reason",
		"jails":     "host,jail,bantime,findtime,maxretry,log_bans,bans,restored_bans,reread_bans,unbans_expired,unbans_manual,unbans_shutdown,failures,banned_now,lost_bans,reoffences,median_reoffence_seconds",
		"coverage":  "host,first_line,last_line,lines,events,unparsed,lifecycle_lines,timezone,timezone_source,settings_seen",
		"summary": "host,log_bans,bans,bans_new,bans_gap,bans_manual,bans_unknown,restored_bans,restored_clean_restart,restored_crash,restored_jail_restart,restored_zombie,restored_orphan,restored_unknown," +
			"reread_bans,restarts,restarts_clean,restarts_crash,restarts_unknown,unbans_expired,unbans_shutdown,unbans_jail_stop,unbans_manual,unbans_unknown," +
			"failures,gap_failures,median_gap_seconds,longest_gap_seconds,banned_now,unprotected_now,lost_bans,reoffences",
	}
	got := map[string]string{}
	for _, kind := range Kinds {
		got[kind] = strings.Join(Columns(kind), ",")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("columns (-want +got):\n%s", diff)
	}
	if c := Columns("nonsense"); c != nil {
		t.Fatalf("columns of no kind: %v", c)
	}
}

// rowsOf makes example rows of every kind.
func rowsOf() map[string][]Row {
	rows := map[string][]Row{KindSummary: SummaryRows(summary())}
	for _, f := range findings() {
		kind, row := FindingRow("main", &f)
		rows[kind] = append(rows[kind], row)
	}
	for _, o := range offenders() {
		rows[KindOffenders] = append(rows[KindOffenders], OffenderRow("main", &o))
	}
	for _, n := range networkRows() {
		rows[KindNetworks] = append(rows[KindNetworks], NetworkRow("main", &n))
	}
	rows[KindCampaigns] = []Row{CampaignRow("main", &offender.Campaign{
		Rank: 1, IDs: hostile, Networks: 4, Hosts: 2, Jails: 1, Started: at("03:00:00.000"), Ended: at("04:10:00.000"), Failures: 25, Bans: 1,
	})}
	for _, a := range []offender.Advice{
		{Place: offender.Place{Host: "web1", Jail: "sshd"}, BanTime: time.Hour, Reoffences: 21, Within1h: 2, Within1d: 17, Within7d: 21, Suggested: 24 * time.Hour, Reason: "1d would have covered"},
		{Place: offender.Place{Host: "web1", Jail: "recidive"}, BanTime: offender.Permanent, Suggested: offender.Permanent, Reason: "bans are permanent already"},
		{Place: offender.Place{Host: "web2", Jail: "sshd"}, Reason: "too little data: 3 bans have ended, 20 are needed"},
	} {
		rows[KindAdvice] = append(rows[KindAdvice], AdviceRow("main", &a))
	}
	back := offender.Returns{Place: offender.Place{Host: "web1", Jail: "sshd"}, Ends: 3, Before: 20, During: 2, After: 7, Banned: 4 * time.Hour}
	back.ToBan.Add(30*time.Minute, true)
	back.ToBan.Add(2*time.Hour, true)
	back.ToBan.Add(48*time.Hour, false)
	back.ToFailure.Add(time.Minute, true)
	rows[KindReturns] = []Row{
		ReturnsRow("main", &back), ReturnsRow("main", &offender.Returns{Place: offender.Place{Host: Everywhere, Jail: "web"}}),
	}
	s := summary()
	rows[KindJails] = JailRows(&s.Sources[0])
	rows[KindCoverage] = []Row{
		CoverageRow("main", &Coverage{
			Host: "web1", FirstLine: at("00:00:01.000"), LastLine: at("21:30:00.000"), Lines: 10000, Events: 9000, Unparsed: 1, LifecycleLines: 14,
			Timezone: "+02:00", TimezoneSource: "inferred", SettingsSeen: true,
		}),
		CoverageRow("main", &Coverage{Host: "silent"}),
	}
	return rows
}

// Every kind in every form, each against its golden file.
func TestForms(t *testing.T) {
	rows := rowsOf()
	for name, write := range map[string]func(io.Writer, Table) error{"csv": WriteCSV, "json": WriteJSON, "txt": WriteTable} {
		var b strings.Builder
		for _, kind := range Kinds {
			if len(rows[kind]) == 0 {
				t.Fatalf("no example of %s", kind)
			}
			fmt.Fprintf(&b, "-- %s --\n", kind)
			if err := write(&b, Table{Kind: kind, Rows: slices.Values(rows[kind])}); err != nil {
				t.Fatalf("%s as %s: %v", kind, name, err)
			}
		}
		golden(t, "rows."+name, b.String())
	}
}

// JSON and CSV say the same, but for the apostrophe that protects spreadsheets.
func TestJSONEqualsCSV(t *testing.T) {
	for kind, rows := range rowsOf() {
		table := Table{Kind: kind, NameSource: true, Rows: slices.Values(rows)}
		var c, j bytes.Buffer
		if err := WriteCSV(&c, table); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if err := WriteJSON(&j, table); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		records, err := csv.NewReader(&c).ReadAll()
		if err != nil {
			t.Fatalf("%s: read the CSV back: %v", kind, err)
		}
		dec := json.NewDecoder(&j)
		dec.UseNumber()
		for _, record := range records[1:] {
			var object map[string]any
			if err := dec.Decode(&object); err != nil {
				t.Fatalf("%s: read the JSON back: %v", kind, err)
			}
			for i, name := range records[0] {
				got := ""
				if v := object[name]; v != nil {
					got = fmt.Sprint(v)
				}
				if want := strings.TrimPrefix(record[i], "'"); got != want {
					t.Fatalf("%s: %s is %q in JSON, %q in CSV", kind, name, got, want)
				}
			}
		}
	}
}

func TestSourceIsFirst(t *testing.T) {
	table := Table{Kind: KindEvents, NameSource: true, Rows: slices.Values([]Row{EventRow("=dc1", &correlate.Occurrence{Event: "reload"})})}
	var b strings.Builder
	if err := WriteCSV(&b, table); err != nil {
		t.Fatalf("write: %v", err)
	}
	if want := "source,time,host,jail,id,event,cause,confidence\n'=dc1,,,,,reload,,\n"; b.String() != want {
		t.Fatalf("got %q, want %q", b.String(), want)
	}
}

func TestHostileCells(t *testing.T) {
	var rows []Row
	for _, id := range append(hostile, "\ttab", "\rreturn", "-1+1", "+1", "\n=1") {
		rows = append(rows, OffenderRow("", &offender.Row{ID: id, Score: -1.5, Scored: true}))
	}
	table := Table{Kind: KindOffenders, Rows: slices.Values(rows)}
	var c, j, x strings.Builder
	for w, write := range map[*strings.Builder]func(io.Writer, Table) error{&c: WriteCSV, &j: WriteJSON, &x: WriteTable} {
		if err := write(w, table); err != nil {
			t.Fatalf("write: %v", err)
		}
		if !utf8.ValidString(w.String()) {
			t.Fatalf("not UTF-8: %q", w.String())
		}
	}
	records, err := csv.NewReader(strings.NewReader(c.String())).ReadAll()
	if err != nil {
		t.Fatalf("read the CSV back: %v", err)
	}
	for _, r := range records[1:] {
		if id := r[1]; id != "" && strings.Contains("=+-@\t\r\n", id[:1]) {
			t.Fatalf("a spreadsheet computes %q", id)
		}
		if r[2] != "-1.5" {
			t.Fatalf("our own number %q is protected", r[2])
		}
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(x.String(), "\n"), "\n") {
		if i := strings.IndexFunc(line, unprintable); i >= 0 {
			t.Fatalf("a terminal obeys %q", line)
		}
	}
	if got, want := strings.Count(x.String(), "\n"), len(rows)+1; got != want {
		t.Fatalf("table has %d lines, want %d", got, want)
	}
	if got, want := strings.Count(j.String(), "\n"), len(rows); got != want {
		t.Fatalf("JSON has %d lines, want %d", got, want)
	}
	if !strings.Contains(x.String(), strings.Repeat("x", 63)+"…") {
		t.Fatalf("the long id is not cut:\n%s", x.String())
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", time.Second: "1", 1500 * time.Millisecond: "1.5", 1010 * time.Millisecond: "1.01", 7 * time.Millisecond: "0.007",
		1999999 * time.Microsecond: "1.999", -500 * time.Millisecond: "-0.5", 10 * 365 * 24 * time.Hour: "315360000",
	} {
		if got := secondsValue(d).String(); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "-1", -time.Second: "-1", 90 * time.Second: "90"} {
		if got := banTimeValue(d).String(); got != want {
			t.Errorf("ban time %v: got %q, want %q", d, got, want)
		}
	}
}

// Each finding that a report lists has the row of that report's kind, and no
// row is listed twice.
func TestReportKind(t *testing.T) {
	for _, f := range findings() {
		kind, _ := FindingRow("", &f)
		switch listed := ReportKind(f.Kind); f.Kind {
		case correlate.FindingGap, correlate.FindingPrematureUnban:
			if listed != "" {
				t.Fatalf("%s is listed a second time, in %s", f.Kind, listed)
			}
		default:
			if listed != kind {
				t.Fatalf("%s is listed in %s with the columns of %s", f.Kind, listed, kind)
			}
		}
	}
}

type full struct{}

var errFull = errors.New("disk full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteErrorsAreReturned(t *testing.T) {
	table := Table{Kind: KindOffenders, Rows: slices.Values(rowsOf()[KindOffenders])}
	for name, write := range map[string]func(io.Writer, Table) error{"csv": WriteCSV, "json": WriteJSON, "table": WriteTable} {
		if err := write(full{}, table); !errors.Is(err, errFull) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := WriteSummary(full{}, summary()); !errors.Is(err, errFull) {
		t.Fatalf("summary: %v", err)
	}
}
