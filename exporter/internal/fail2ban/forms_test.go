package fail2ban

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var evening = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)

const (
	prefixedLine = "2026-11-22 20:00:00,001 fail2ban.actions        [1]: NOTICE  [sshd] Unban 192.0.2.1"
	wrappedLine  = `{"log":"2026-11-22 20:00:00,001 fail2ban.actions [1]: NOTICE [sshd] Ban 192.0.2.1\n"}`
	bareLine     = "[sshd] Ban 192.0.2.1"
)

// refused counts the lines that are not read until the first one that is.
func refused(p *Parser, line string, from time.Time, step time.Duration, most int) int {
	for i := range most {
		at := from
		if !at.IsZero() {
			at = at.Add(time.Duration(i) * step)
		}
		var ev Event
		if p.Parse([]byte(line), at, &ev) == nil {
			return i
		}
	}
	return most
}

// A stream that shows another form for good is read again: at once where the
// form is stronger, else after many lines that took a while.
func TestLockRecovers(t *testing.T) {
	const most = 1000
	for _, tt := range []struct {
		name, held, line string
		step             time.Duration
		want             int
	}{
		{"from bare to prefixed", bareLine, prefixedLine, time.Second, 0},
		{"from wrapped to prefixed", wrappedLine, prefixedLine, time.Second, 0},
		{"from bare to wrapped", bareLine, wrappedLine, time.Second, 0},
		{"from prefixed to wrapped", prefixedLine, wrappedLine, time.Minute, lockLines - 1},
		{"from prefixed to bare", prefixedLine, bareLine, time.Minute, lockLines - 1},
		{"from wrapped to bare", wrappedLine, bareLine, time.Minute, lockLines - 1},
		{"a quick flood of lines", prefixedLine, bareLine, time.Millisecond, most},
		{"slower than the span asks", prefixedLine, bareLine, time.Second, int(lockSpan / time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := NewParser(Options{})
			var ev Event
			if err := p.Parse([]byte(tt.held), evening, &ev); err != nil {
				t.Fatal(err)
			}
			if got := refused(p, tt.line, evening, tt.step, most); got != tt.want {
				t.Errorf("%d lines were refused, want %d", got, tt.want)
			}
		})
	}
}

// The client of a server that logs to the journal warns with a prefix, which is
// no sign that the server's own lines will have one.
func TestClientsWarningsHoldNothing(t *testing.T) {
	p := NewParser(Options{})
	var ev Event
	for i, line := range []string{
		"2026-11-22 20:00:00,001 fail2ban.configreader   [1]: WARNING 'allowipv6' not defined in 'Definition'. Using default one: 'auto'",
		"Starting Fail2ban v1.1.0",
		bareLine,
		"2026-11-22 20:00:00,001 fail2ban.configreader   [1]: WARNING 'allowipv6' not defined in 'Definition'. Using default one: 'auto'",
		bareLine,
	} {
		if err := p.Parse([]byte(line), evening, &ev); err != nil {
			t.Errorf("line %d: %v", i, err)
		}
	}
}

// One line of the form held begins the count anew, so what an attacker slips in
// between fail2ban's own lines never adds up.
func TestLockHolds(t *testing.T) {
	p := NewParser(Options{})
	var ev Event
	for i := range 50 * lockLines {
		at := evening.Add(time.Duration(i) * time.Minute)
		line, want := bareLine, ErrForeign
		if i%(lockLines-1) == 0 {
			line, want = prefixedLine, nil
		}
		if err := p.Parse([]byte(line), at, &ev); !errors.Is(err, want) {
			t.Fatalf("line %d: %v", i, err)
		}
	}
}

// A refused line teaches nothing: neither a zone nor a jail's name.
func TestRefusedLinesTeachNothing(t *testing.T) {
	p := NewParser(Options{})
	var ev Event
	if err := p.Parse([]byte(prefixedLine), evening, &ev); err != nil {
		t.Fatal(err)
	}
	before := p.AppendState(nil)
	for range 70 {
		for _, line := range []string{
			`{"log":"2026-11-22 08:00:00,001 fail2ban.jail [1]: INFO Jail 'x] y' started"}`,
			`2026-11-22 08:00:00,001 other.program [1]: INFO Jail 'x] y' started`,
			`Jail 'x] y' started`,
		} {
			if err := p.Parse([]byte(line), evening, &ev); !errors.Is(err, ErrForeign) {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	p.lock = lock{held: p.lock.held} // the count goes on
	if after := p.AppendState(nil); !bytes.Equal(before, after) {
		t.Errorf("%x became %x", before, after)
	}
}

// A parser that was saved and loaded anywhere reads on like one that was not.
func TestStateCarriesOn(t *testing.T) {
	for name, o := range map[string]Options{
		"inferred": {}, "configured": {Location: time.FixedZone("", 3600), Jails: []string{"q] r"}},
	} {
		lines := mixedLines(t)
		want := readAll(NewParser(o), lines)
		for _, cut := range []int{0, 1, 2, 50, 101, 130, len(lines) / 2, len(lines) - 1, len(lines)} {
			p := NewParser(o)
			got := readAll(p, lines[:cut])
			q := NewParser(o)
			if err := q.LoadState(p.AppendState(nil)); err != nil {
				t.Fatal(err)
			}
			got = append(got, readAll(q, lines[cut:])...)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("%s: cut at %d, line %d %q:\n%s, want\n%s", name, cut, i, lines[i].text, got[i], want[i])
				}
			}
		}
	}
}

type timedLine struct {
	text string
	at   time.Time
}

// mixedLines are all golden lines after each other, then a stream that changes
// its form twice, at a zone's offset.
func mixedLines(t *testing.T) (lines []timedLine) {
	t.Helper()
	at := evening
	add := func(text string, step time.Duration) {
		at = at.Add(step)
		lines = append(lines, timedLine{text, at})
	}
	for range 120 {
		add("[a] b] 192.0.2.1 already banned", 10*time.Second)
		add("Jail 'a] b' started", time.Second)
	}
	files, _ := filepath.Glob("testdata/lines/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			add(strings.TrimSuffix(line, "\n"), time.Second)
		}
	}
	for i := range 150 {
		add(at.Add(2*time.Hour).Format("2006-01-02 15:04:05,000")+" fail2ban.actions [1]: NOTICE [sshd] Ban 192.0.2.1", time.Minute)
		if i%3 == 0 {
			add("Nov 22 21:16:56 web-1 fail2ban.actions[27460]: NOTICE [sshd] Ban 192.0.2.1", time.Second)
		}
	}
	for range 150 {
		add(fmt.Sprintf(`{"log":%q}`, at.Format("2006-01-02 15:04:05,000")+" fail2ban.actions [1]: NOTICE [sshd] Ban 192.0.2.1"), time.Minute)
	}
	return lines
}

func readAll(p *Parser, lines []timedLine) (out []string) {
	for _, l := range lines {
		var ev Event
		err := p.Parse([]byte(l.text), l.at, &ev)
		out = append(out, describe(&ev, err))
	}
	return out
}

// A damaged state is refused, and changes nothing.
func TestStateIsChecked(t *testing.T) {
	p := NewParser(Options{})
	for _, l := range mixedLines(t) {
		var ev Event
		_ = p.Parse([]byte(l.text), l.at, &ev)
	}
	whole := p.AppendState(nil)
	if len(whole) > 4<<10 {
		t.Errorf("%d bytes are no small state", len(whole))
	}
	for n := range len(whole) {
		q := NewParser(Options{})
		fresh := q.AppendState(nil)
		if q.LoadState(whole[:n]) == nil || !bytes.Equal(fresh, q.AppendState(nil)) {
			t.Errorf("the first %d of %d bytes were taken", n, len(whole))
		}
	}
	if p.LoadState(append([]byte{stateVersion + 1}, whole[1:]...)) == nil {
		t.Error("another version was taken")
	}
}

// Names are bounded in number and length; those that came first stay.
func TestNamesAreBounded(t *testing.T) {
	p := NewParser(Options{Location: time.UTC})
	for i := range 1000 {
		line := fmt.Sprintf("2026-11-22 19:52:24,001 fail2ban.jail [1]: INFO Jail 'j%d] x%s' started", i, strings.Repeat("y", i))
		var ev Event
		_ = p.Parse([]byte(line), time.Time{}, &ev)
	}
	if n := len(p.learnt.odd) + len(p.learnt.plain); n != maxNames {
		t.Errorf("%d names", n)
	}
	for _, name := range p.learnt.odd {
		if len(name) > MaxJail {
			t.Errorf("a name of %d bytes", len(name))
		}
	}
}

// What is wrong with a format is said with its key and what would be right.
func TestFormatErrors(t *testing.T) {
	const all = "time, level, logger, pid, thread, message, host, service, jail, action, ip"
	for _, tt := range []struct {
		o    FormatOptions
		want string
	}{
		{FormatOptions{}, "pattern: it is missing; give a pattern like `<time> - <action> - <ip> - <jail>`, or a regexp"},
		{FormatOptions{Pattern: "<ip>", Regexp: "x"}, "pattern: there is a regexp too; give one of them"},
		{FormatOptions{Pattern: "<time> <address>"}, `pattern: "address" is no name of a part; the names are ` + all},
		{FormatOptions{Pattern: "<time><ip>"}, "pattern: nothing stands between <ip> and the part before it; put the text there that divides them"},
		{FormatOptions{Pattern: "<_><_> <ip> <action>"}, "pattern: nothing stands between <_> and the part before it; put the text there that divides them"},
		{FormatOptions{Pattern: "<ip> <ip>"}, `pattern: "ip" stands there twice; once is enough`},
		{FormatOptions{Pattern: "no <captures!>"}, "pattern: it names too little; name `message` (fail2ban's own text), or `action` and `ip`"},
		{FormatOptions{Pattern: "<time> <ip>"}, "pattern: it names too little; name `message` (fail2ban's own text), or `action` and `ip`"},
		{FormatOptions{Pattern: "<message> <ip>"}, "pattern: `message` holds jail, action and ip already; name either `message` or the others"},
		{FormatOptions{Regexp: "(?P<ip>"}, "regexp: error parsing regexp: missing closing ): `(?P<ip>`; it must be of Go's syntax (RE2)"},
		{FormatOptions{Regexp: "(?P<ip>.*) (?P<verb>.*)"}, `regexp: "verb" is no name of a part; the names are ` + all},
		{FormatOptions{Pattern: "<ip> <action>", TimeFormat: "soon"}, `time_format: "soon" is neither a name (auto, rfc3339, unix, unix_ms, unix_us, unix_ns, syslog) nor a layout of Go's, like 2006-01-02 15:04:05`},
		{FormatOptions{Pattern: "<ip> <action>", TimeFormat: "15:04:05"}, `time_format: the layout "15:04:05" does not tell day, hour and minute; write the time 2006-01-02 15:04:05 in your form`},
	} {
		_, err := NewFormat(tt.o)
		var fe *FormatError
		if !errors.As(err, &fe) || err.Error() != tt.want {
			t.Errorf("%+v:\n%v, want\n%s", tt.o, err, tt.want)
		}
	}
}

// Every named time format reads its own stamp.
func TestTimeFormats(t *testing.T) {
	base := time.Date(2026, 11, 22, 19, 52, 24, 0, time.UTC)
	for name, stamp := range map[string]string{
		"rfc3339": "2026-11-22T20:52:24+01:00", "RFC3339Nano": "2026-11-22T19:52:24.000Z", "unix": "1795377144", "UnixMs": "1795377144000",
		"unix_us": "1795377144000000", "unix_ns": "1795377144000000000", "syslog": "Nov 22 19:52:24", "ansic": "Sun Nov 22 19:52:24 2026",
		"rfc1123z": "Sun, 22 Nov 2026 20:52:24 +0100", "02.01.2006 15:04:05": "22.11.2026 19:52:24", "auto": "2026-11-22 20:52:24+01:00",
		"Jan _2 15:04:05 2006": "Nov 22 19:52:24 2026", "2006-01-02T15:04:05": "2026-11-22T19:52:24,000",
	} {
		f, err := NewFormat(FormatOptions{Pattern: "<time>|<action>|<ip>", TimeFormat: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, at := range []time.Time{{}, base.Add(time.Second)} {
			var ev Event
			p := NewParser(Options{Format: f, Newest: base})
			if err := p.Parse([]byte(stamp+"|ban|192.0.2.1"), at, &ev); err != nil || !ev.Time.Equal(base) {
				t.Errorf("%s: %s: %v, %v", name, stamp, ev.Time, err)
			}
		}
	}
}

// Stamps without a zone stand in the format's, else in the source's, else in
// the inferred one.
func TestFormatZones(t *testing.T) {
	paris := time.FixedZone("", 7200)
	line := []byte("2024-10-20 10:00:00 - Ban - 192.0.2.1 - sshd")
	utc := time.Date(2024, 10, 20, 8, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct{ format, source *time.Location }{
		"format": {paris, time.UTC}, "source": {nil, paris}, "inferred": {nil, nil},
	} {
		f, err := NewFormat(FormatOptions{Pattern: "<time> - <action> - <ip> - <jail>", Location: tt.format})
		if err != nil {
			t.Fatal(err)
		}
		var ev Event
		if err := NewParser(Options{Format: f, Location: tt.source}).Parse(line, utc.Add(3*time.Second), &ev); err != nil || !ev.Time.Equal(utc) {
			t.Errorf("%s: %v, %v", name, ev.Time, err)
		}
	}
}

// The recordings that came in other forms than a file's say the same events.
func TestRecordedForms(t *testing.T) {
	custom, err := NewFormat(FormatOptions{Pattern: "<time> host=<host> lvl=<level> src=<logger> msg=<message>"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		file   string
		format *Format
		thread bool
	}{{"fmt-file-custom/fail2ban.log", custom, false}, {"fmt-journal/journal-json.log", nil, true}} {
		text, err := os.ReadFile("../../../testdata/recordings/" + tt.file)
		if err != nil {
			t.Fatal(err)
		}
		p := NewParser(Options{Location: time.UTC, Format: tt.format})
		events := 0
		for line := range bytes.Lines(text) {
			var ev Event
			err := p.Parse(line, time.Time{}, &ev)
			if err != nil && !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v: %s", tt.file, err, line)
			}
			if err != nil || ev.Kind == Other {
				continue
			}
			events++
			if ev.Time.IsZero() || tt.thread && (ev.Thread == "" || ev.PID == 0) || !tt.thread && ev.Host != "web-1" {
				t.Errorf("%s: %s", line, describe(&ev, nil))
			}
		}
		if events < 20 {
			t.Errorf("%s: only %d events", tt.file, events)
		}
	}
}

// FuzzForms reads any line in users' forms and wrapped, with any saved state.
func FuzzForms(f *testing.F) {
	files, _ := filepath.Glob("testdata/lines/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			f.Add("<time> - <action> - <ip> - <jail>", "auto", line, []byte(nil))
		}
	}
	p := NewParser(Options{})
	for _, line := range []string{bareLine, wrappedLine, prefixedLine, "Jail 'a] b' started"} {
		var ev Event
		_ = p.Parse([]byte(line), evening, &ev)
		f.Add("[<time>] <host> <message>", "2006-01-02 15:04:05", []byte(line), p.AppendState(nil))
	}
	f.Fuzz(func(t *testing.T, pattern, layout string, line, state []byte) {
		format, err := NewFormat(FormatOptions{Pattern: pattern, TimeFormat: layout})
		if err != nil && format != nil {
			t.Error("a format beside an error")
		}
		for _, at := range []time.Time{{}, evening} {
			for _, o := range []Options{{}, {Format: format, Jails: []string{"a] b", string(state)}}} {
				p := NewParser(o)
				if p.LoadState(state) == nil {
					q := NewParser(o)
					if err := q.LoadState(p.AppendState(nil)); err != nil {
						t.Errorf("a state cannot be loaded again: %v", err)
					}
				}
				var ev Event
				if err := p.Parse(line, at, &ev); err == nil {
					inBounds(t, &ev)
				}
			}
		}
	})
}

func inBounds(t *testing.T, ev *Event) {
	t.Helper()
	if ev.Kind >= kinds || len(ev.Jail) > MaxJail || len(ev.ID) > MaxID || len(ev.Host) > MaxHost || len(ev.Service) > MaxJail || len(ev.Detail) > MaxLine {
		t.Errorf("out of bounds: %s", describe(ev, nil))
	}
	if ev.Kind.HasID() && ev.Kind != ActionError && ev.ID == "" {
		t.Errorf("%s without an id", ev.Kind)
	}
	if y := ev.Time.Year(); !ev.Time.IsZero() && (y < 0 || y > 10000) {
		t.Errorf("the year %d", y)
	}
}
