package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/google/go-cmp/cmp"
)

// weeks is the log of a host over so many days: regulars are banned each
// morning for ten minutes and come back half a day later, passers-by once.
func weeks(days int) string {
	var b strings.Builder
	line := func(at time.Time, what string) {
		fmt.Fprintf(&b, "%s,000 fail2ban.actions        [100]: NOTICE  [sshd] %s\n", at.Format(time.DateTime), what)
	}
	start := time.Date(2026, 11, 1, 1, 0, 0, 0, time.UTC)
	fmt.Fprintf(&b, "%s,000 fail2ban.server         [100]: INFO    Starting Fail2ban v1.0.2\n", start.Format(time.DateTime))
	fmt.Fprintf(&b, "%s,000 fail2ban.jail           [100]: INFO    Creating new jail 'sshd'\n", start.Format(time.DateTime))
	fmt.Fprintf(&b, "%s,000 fail2ban.actions        [100]: INFO      banTime: 600\n", start.Format(time.DateTime))
	fmt.Fprintf(&b, "%s,000 fail2ban.jail           [100]: INFO    Jail 'sshd' started\n", start.Format(time.DateTime))
	for day := range days {
		for _, hour := range []int{8, 20} {
			for id := range 4 {
				at := start.AddDate(0, 0, day).Truncate(24 * time.Hour).Add(time.Duration(hour)*time.Hour + time.Duration(id)*time.Second)
				line(at, fmt.Sprintf("Ban 192.0.2.%d", id+1))
			}
		}
		for id := range 4 {
			at := start.AddDate(0, 0, day).Truncate(24 * time.Hour).Add(21*time.Hour + time.Duration(id)*time.Second)
			line(at, fmt.Sprintf("Ban 198.51.%d.%d", day, id+1))
		}
	}
	return b.String()
}

// withUnbans adds the end of each ban, in the order of time.
func withUnbans(log string) string {
	type due struct {
		at time.Time
		id string
	}
	var out strings.Builder
	var open []due
	for line := range strings.Lines(log) {
		at, _ := time.Parse(time.DateTime, line[:19])
		for len(open) > 0 && !open[0].at.After(at) {
			fmt.Fprintf(&out, "%s,000 fail2ban.actions        [100]: NOTICE  [sshd] Unban %s\n", open[0].at.Format(time.DateTime), open[0].id)
			open = open[1:]
		}
		out.WriteString(line)
		if _, id, ok := strings.Cut(line, "] Ban "); ok {
			open = append(open, due{at.Add(10 * time.Minute), strings.TrimSpace(id)})
		}
	}
	return out.String()
}

func TestEvaluate(t *testing.T) {
	log := filepath.Join(t.TempDir(), "fail2ban.log")
	write := func(text string) {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(withUnbans(weeks(10)))
	args := []string{"report", "offenders", "--evaluate", "--timezone", "UTC", "--format", "csv", "--top", "8", log}
	c := call(t, "", args...)
	// The midnights from 3 November, the first with a full day before it (the log
	// begins at one), to 9 November, the last with one after it.
	want := "method,hits,of,share,days\n" +
		"score,28,56,0.5,7\n" +
		"true bans,28,56,0.5,7\n" +
		"true bans of the last day,28,56,0.5,7\n" +
		"bans and restores,28,56,0.5,7\n"
	if c.code != exitDone || c.errors != "" || c.out != want {
		t.Errorf("code %d, %s%s", c.code, c.errors, cmp.Diff(want, c.out))
	}
	write(weeks(2))
	c = call(t, "", args...)
	if c.code != exitDone || c.out != "method,hits,of,share,days\n" || !strings.Contains(c.errors, "too little data") {
		t.Errorf("two days: %+v", c)
	}
	if c := call(t, "", "report", "bans", "--evaluate", log); c.code != exitUsage || !strings.Contains(c.errors, "--evaluate is for `report offenders`") {
		t.Errorf("%+v", c)
	}
}

// Who came back after each end, by jail and host, by jail, and over all: four
// regulars come twice a day, forty others never again.
func TestReturnsEverywhere(t *testing.T) {
	dir := t.TempDir()
	args := []string{"report", "returns", "--timezone", "UTC", "--format", "csv"}
	for _, host := range []string{"a", "b"} {
		path := filepath.Join(dir, host)
		if err := os.WriteFile(path, []byte(withUnbans(weeks(10))), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--input", host+"="+path)
	}
	c := call(t, "", args...)
	// Of 116 ends 76 came back 11 h 50 min later; four were seen for less: 1 - 76/112 stay away.
	want := []string{
		"a,sshd,116,76,42600,1,0.321,0.321,,0,,1,1,1,,19.333,0,0,0", "b,sshd,116,76,42600,1,0.321,0.321,,0,,1,1,1,,19.333,0,0,0",
		"*,sshd,232,152,42600,1,0.321,0.321,,0,,1,1,1,,38.667,0,0,0", "*,*,232,152,42600,1,0.321,0.321,,0,,1,1,1,,38.667,0,0,0",
	}
	if got := strings.Fields(c.out); c.code != exitDone || !slices.Equal(got[1:], want) {
		t.Errorf("%+v", c)
	}
}

// The section `offenders` of a configuration that is named holds for files too.
func TestRankedByConfiguration(t *testing.T) {
	dir := t.TempDir()
	log, config := filepath.Join(dir, "fail2ban.log"), filepath.Join(dir, "config.yaml")
	for path, text := range map[string]string{
		log: withUnbans(weeks(10)), config: "sources: [{}]\noffenders:\n  score: {jail_weights: {sshd: 0}}\n  ipv4_prefix: 16\n  advice: {min_ends: 1000}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := call(t, "", "report", "advice", "--timezone", "UTC", "--format", "csv", log)
	if !strings.Contains(c.out, "localhost,sshd,600,76,0,76,76,43200,12h would have covered 76 of 76 re-offences within 30 days (100 %)") {
		t.Error(c.out)
	}
	c = call(t, "", "report", "advice", "--timezone", "UTC", "--format", "csv", "--config.file", config, log)
	if !strings.Contains(c.out, `,"too little data: 116 bans have ended, 1000 are needed"`) {
		t.Error(c.out)
	}
	for _, kind := range []string{publish.KindOffenders, publish.KindNetworks} {
		c := call(t, "", "report", kind, "--timezone", "UTC", "--format", "csv", "--config.file", config, log)
		if c.code != exitDone || strings.Contains(c.out, "192.0.2.1,") || strings.Contains(c.out, "/24") {
			t.Errorf("%s: %s", kind, c.out)
		}
	}
	c = call(t, "", "report", "offenders", "--config.file", filepath.Join(dir, "none.yaml"), log)
	if c.code != exitFailed || !strings.Contains(c.errors, "none.yaml: no such file") {
		t.Errorf("%+v", c)
	}
}
