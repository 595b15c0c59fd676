package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Every report is the same, byte for byte, whether its lines come from the
// files or were spread over several streams of a real Loki and fetched in
// small or in large pages.
func TestReportFromLokiEqualsFiles(t *testing.T) {
	within := []string{"--from", "2026-11-22T19:00:00Z", "--to", "2026-11-22T21:30:00Z"}
	for _, name := range []string{"clean-restart", "crash-kill9", "multihost", "soak"} {
		t.Run(name, func(t *testing.T) {
			r := load(t, name)
			push(t, name, r)
			files := []string{"--timezone", "UTC"}
			for _, h := range r.Hosts {
				files = append(files, "--input", h.Name+"="+h.File)
			}
			pages := map[int]string{}
			for _, size := range []int{7, 5000} {
				pages[size] = config{tenant: name, pageSize: size}.write(t)
			}
			for _, kind := range []string{"events", "restores", "bans", "offenders", "summary"} {
				for _, format := range []string{"csv", "json"} {
					report := slices.Concat([]string{"report", kind, "--format", format}, within)
					want := succeed(t, slices.Concat(report, files)...)
					if strings.Count(want, "\n") < 2 {
						t.Errorf("%s as %s from the files is all but empty:\n%s", kind, format, want)
					}
					for size, file := range pages {
						if size < 5000 && format != "csv" {
							continue // hundreds of requests each, and the same rows
						}
						got := succeed(t, slices.Concat(report, []string{"--config.file", file})...)
						if got != want {
							t.Errorf("%s as %s from Loki with page_size %d: %s", kind, format, size, difference(got, want))
						}
					}
				}
			}
			restores := succeed(t, slices.Concat([]string{"report", "restores", "--format", "csv"}, within, files)...)
			if got, want := strings.Count(restores, "\n")-1, r.CountLines(restoreLine); got != want {
				t.Errorf("%d restores reported, the log has %d", got, want)
			}
		})
	}
}

// difference shows where two texts part.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("%d lines instead of %d, first other one %d:\n  from Loki: %s\n  from file: %s",
				len(g), len(w), i+1, at(g, i), at(w, i))
		}
	}
	return "no difference"
}

func at(lines []string, i int) string {
	if i >= len(lines) {
		return "(none)"
	}
	return lines[i]
}
