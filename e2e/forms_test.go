package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // a recording of Berlin

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// Each form here has lines that bear no date, or one that does not tell the
// time: only with the times of Loki's entries do they make sense. Entry times
// are those at which the lines were written, as well as the recording tells it;
// each function below says how.
var forms = []struct {
	recording string
	variant   string
	entries   func(t *testing.T, dir string, truth lab.Truth) []lab.Line
	zone      string // of the source
	format    string // one that the configuration describes, without its name
}{
	{recording: "fmt-file-datetime-off", entries: undated("fail2ban.log")},
	{recording: "fmt-sysout", entries: undated("stdout.log")},
	{recording: "fmt-stdout-vvv", entries: sinceStart},
	{recording: "fmt-syslog-raw", entries: datagrams},
	{recording: "fmt-journal", entries: journal},
	{recording: "fmt-journal", variant: "labels", entries: journal},
	{
		recording: "fmt-file-custom", variant: "pattern", entries: stamped,
		format: `pattern: '<time> host=<_> lvl=<level> src=<logger> msg=<message>'`,
	},
	{
		recording: "fmt-file-custom", variant: "regexp", entries: stamped,
		format: `regexp: '^(?P<time>\S+ \S+) host=\S+ lvl=(?P<level>\w+) src=(?P<logger>\S+) msg=(?P<message>.*)$'
    time_format: '2006-01-02 15:04:05,000'`,
	},
	{recording: "dst-fallback", entries: repeatedHour, zone: "Europe/Berlin"},
	{recording: "dst-fallback", variant: "auto", entries: repeatedHour, zone: "auto"},
}

// What no test of files can read is told right through a real Loki.
func TestFormsThroughLoki(t *testing.T) {
	for _, form := range forms {
		t.Run(strings.TrimSuffix(form.recording+"/"+form.variant, "/"), func(t *testing.T) {
			dir, hosts, err := lab.ReadTruth(form.recording)
			if err != nil {
				t.Fatal(err)
			}
			truth := hosts["web-1"]
			lines := rising(form.entries(t, dir, truth))
			tenant := form.recording + form.variant
			labels := lab.Spread(1)
			if form.variant == "labels" {
				labels = asLabels
			}
			if err := lab.Push(t.Context(), loki.URL, tenant, labels, lines); err != nil {
				t.Fatal(err)
			}
			got := eventsFromLoki(t, config{tenant: tenant, timezone: form.zone, format: form.format}, lines)
			scoreOf(got, truth.Events).check(t)
			if form.recording != "fmt-journal" {
				return
			}
			for _, v := range got { // the thread leaves no doubt who lifted a ban
				if v.event == "unban" && v.confidence != "certain" {
					t.Errorf("%v at %s is only %s", v, v.time, v.confidence)
				}
			}
		})
	}
}

// eventsFromLoki runs `report events` over the time of some lines.
func eventsFromLoki(t *testing.T, c config, lines []lab.Line) []verdict {
	t.Helper()
	from, to := lines[0].Time.Add(-time.Minute), lines[len(lines)-1].Time.Add(time.Minute)
	out := succeed(t, "report", "events", "--format", "csv", "--config.file", c.write(t),
		"--from", from.Format(time.RFC3339), "--to", to.Format(time.RFC3339))
	return verdictsOf(t, columns(t, out, []string{"time", "jail", "id", "event", "cause", "confidence"}))
}

// rising gives each entry a time of its own, in the order in which they were
// written: at least a nanosecond after its predecessor.
func rising(lines []lab.Line) []lab.Line {
	for i := 1; i < len(lines); i++ {
		if !lines[i].Time.After(lines[i-1].Time) {
			lines[i].Time = lines[i-1].Time.Add(time.Nanosecond)
		}
	}
	return lines
}

// asLabels puts metadata into the stream's labels, as a scrape configuration
// without structured metadata does.
func asLabels(i int, l lab.Line) map[string]string {
	labels := lab.Spread(1)(i, l)
	maps.Copy(labels, l.Metadata)
	return labels
}

func readLines(t *testing.T, dir, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

var (
	pidPattern    = regexp.MustCompile(`^\S+ *\[(\d+)\]: `)
	foundPattern  = regexp.MustCompile(`\] Found \S+ - (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)$`)
	actionPattern = regexp.MustCompile(`\[([\w-]+)\] (Restore Ban|Ban|Unban) (\S+)$`)
)

// undated reads lines without a date. What tells when they were written:
//   - The action of a Ban, Restore Ban or Unban ran milliseconds after the line:
//     the truth has its time.
//   - A Found names the second of its failure, at most a second or so before.
//   - The client's own warnings at each start do bear a date, in the same
//     stream or on the terminal, with the pid of the server to be.
//   - All others were written after the line before, and take its time.
func undated(name string) func(*testing.T, string, lab.Truth) []lab.Line {
	return func(t *testing.T, dir string, truth lab.Truth) (lines []lab.Line) {
		starts := map[string]time.Time{}
		for _, text := range readLines(t, dir, "stdout.log") {
			if l := (lab.Line{Text: text}); !l.Stamp().IsZero() {
				starts[pidPattern.FindStringSubmatch(text[len("2026-11-22 20:16:34,324 "):])[1]] = l.Stamp()
			}
		}
		if len(starts) != 2 {
			t.Fatalf("%d dated starts", len(starts))
		}
		actions := actionTimes(truth)
		var now time.Time
		for _, text := range readLines(t, dir, name) {
			l := lab.Line{Host: "web-1", Text: text}
			at := l.Stamp()
			if m := pidPattern.FindStringSubmatch(text); m != nil {
				at = starts[m[1]]
			}
			if m := foundPattern.FindStringSubmatch(text); m != nil {
				at, _ = time.Parse(time.DateTime, m[1])
			}
			if ran, ok := actions(text); ok {
				at = ran
			}
			if at.After(now) {
				now = at
			}
			l.Time = now
			lines = append(lines, l)
		}
		return lines
	}
}

// actionTimes gives the times of the true actions to the lines that announce
// them, one after the other.
func actionTimes(truth lab.Truth) func(text string) (time.Time, bool) {
	kinds := map[string]string{"Ban": "ban", "Restore Ban": "restore", "Unban": "unban"}
	events := slices.Clone(truth.Events)
	return func(text string) (time.Time, bool) {
		m := actionPattern.FindStringSubmatch(text)
		if m == nil {
			return time.Time{}, false
		}
		i := slices.IndexFunc(events, func(e lab.Event) bool { return e.Jail == m[1] && e.Kind == kinds[m[2]] && e.ID == m[3] })
		if i < 0 {
			return time.Time{}, false
		}
		at := events[i].Time()
		events = slices.Delete(events, i, i+1)
		return at, true
	}
}

// stamped reads lines that bear their date at the beginning: the format of an
// administrator's own keeps fail2ban's stamp.
func stamped(t *testing.T, dir string, _ lab.Truth) (lines []lab.Line) {
	for _, text := range readLines(t, dir, "fail2ban.log") {
		l := lab.Line{Host: "web-1", Text: text}
		if l.Time = l.Stamp(); l.Time.IsZero() {
			t.Fatalf("no stamp in %q", text)
		}
		lines = append(lines, l)
	}
	return lines
}

// sinceStart reads -vvv's lines, which begin with the milliseconds since their
// process started. That start is the earliest that an action allows which
// the truth has: actions run milliseconds after their line.
func sinceStart(t *testing.T, dir string, truth lab.Truth) (lines []lab.Line) {
	elapsed := regexp.MustCompile(`^ \+ *(\d+) `)
	actions := actionTimes(truth)
	var began time.Time
	var last time.Duration
	run := 0 // index of the process' first line
	settle := func() {
		if began.IsZero() {
			t.Fatal("a process without an action")
		}
		for i := range lines[run:] {
			lines[run+i].Time = began.Add(time.Duration(lines[run+i].Time.UnixNano()))
		}
		run, began = len(lines), time.Time{}
	}
	for _, text := range readLines(t, dir, "stdout.log") {
		if m := elapsed.FindStringSubmatch(text); m != nil {
			ms, _ := strconv.Atoi(m[1])
			d := time.Duration(ms) * time.Millisecond
			if d < last-time.Second {
				settle()
			}
			last = d
			if ran, ok := actions(text); ok && (began.IsZero() || ran.Add(-d).Before(began)) {
				began = ran.Add(-d)
			}
		}
		lines = append(lines, lab.Line{Host: "web-1", Time: time.Unix(0, int64(last)), Text: text})
	}
	settle()
	return lines
}

// datagrams reads what fail2ban sent to the syslog socket. Its reader noted the
// time of each, and wrote the zero at the end as \x00.
func datagrams(t *testing.T, dir string, _ lab.Truth) (lines []lab.Line) {
	for _, row := range readLines(t, dir, "syslog-datagrams.raw") {
		stamp, text, _ := strings.Cut(row, " ")
		seconds, micros, _ := strings.Cut(stamp, ".")
		s, err1 := strconv.ParseInt(seconds, 10, 64)
		us, err2 := strconv.ParseInt(micros, 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("no time in %q", row)
		}
		lines = append(lines, lab.Line{Host: "web-1", Time: time.UnixMicro(s*1e6 + us).UTC(), Text: strings.ReplaceAll(text, `\x00`, "\x00")})
	}
	return lines
}

// journal reads journald's export as Alloy and Promtail do: the entry's time is
// that of its reception, the line is MESSAGE, and fields go with it.
func journal(t *testing.T, dir string, _ lab.Truth) (lines []lab.Line) {
	for _, row := range readLines(t, dir, "journal-json.log") {
		var fields map[string]string
		if err := json.Unmarshal([]byte(row), &fields); err != nil {
			t.Fatal(err)
		}
		us, err := strconv.ParseInt(fields["__REALTIME_TIMESTAMP"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, lab.Line{
			Host: "web-1", Time: time.UnixMicro(us).UTC(), Text: fields["MESSAGE"],
			Metadata: map[string]string{"THREAD_NAME": fields["THREAD_NAME"], "_PID": fields["_PID"]},
		})
	}
	return lines
}

// repeatedHour reads the log of the night in which Berlin's clocks go back from
// three to two: libfaketime bent the server's clock to it. The stamps are local;
// as time itself goes on, the hour that comes twice is the second one from
// where they step back.
func repeatedHour(t *testing.T, dir string, _ lab.Truth) (lines []lab.Line) {
	offset := -2 * time.Hour
	var last time.Time
	for _, text := range readLines(t, dir, "fail2ban.log") {
		l := lab.Line{Host: "web-1", Text: text}
		at := l.Stamp()
		if at.IsZero() {
			t.Fatalf("no stamp in %q", text)
		}
		if at.Before(last.Add(-time.Minute)) {
			offset += time.Hour
		}
		last = at
		l.Time = at.Add(offset)
		lines = append(lines, l)
	}
	if offset != -time.Hour {
		t.Fatal("the clocks did not go back once")
	}
	return lines
}
