package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// The API says of a fleet what `report` says, row by row and column by column:
// only scores are as of another moment, and whether an attacker came back after
// a restore is not settled yet.
func TestAPIEqualsReport(t *testing.T) {
	tenant, _ := pushNow(t, "multihost")
	file := config{tenant: tenant}.write(t)
	s := daemonOf(t, file)
	for _, kind := range []string{"offenders", "restores"} {
		var want []map[string]any
		for line := range strings.Lines(succeed(t, "report", kind, "--config.file", file, "--format", "json", "--top", "5000")) {
			want = append(want, row(t, line))
		}
		if len(want) < 20 {
			t.Fatalf("%d %s", len(want), kind)
		}
		poll(t, s, kind+" are others than the report's", func(ctx context.Context) error {
			body, err := lab.Get(ctx, s.URL+"/api/v1/"+kind+"?limit=5000")
			if err != nil {
				return err
			}
			var got []map[string]any
			if err := json.Unmarshal(body, &got); err != nil {
				return err
			}
			return sameAnswer(got, want)
		})
	}
}

func row(t *testing.T, text string) (r map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// sameAnswer compares rows in whatever order, without what depends on the moment.
func sameAnswer(got, want []map[string]any) error {
	texts := func(rows []map[string]any) (out []string) {
		for _, r := range rows {
			r = maps.Clone(r)
			delete(r, "score")
			delete(r, "rank")
			delete(r, "failed_again")
			text, err := json.Marshal(r)
			if err != nil {
				return []string{err.Error()}
			}
			out = append(out, string(text))
		}
		slices.Sort(out)
		return out
	}
	a, b := texts(got), texts(want)
	if len(a) != len(b) {
		return fmt.Errorf("%d rows, not %d", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("%s, the report says %s", a[i], b[i])
		}
	}
	return nil
}

// With users configured the binary's probes are answered all the same, and
// nothing else is.
func TestProbesWithPassword(t *testing.T) {
	tenant, _ := pushNow(t, "clean-restart")
	dir := t.TempDir()
	// The password is "right", at bcrypt's lowest cost.
	web := writeFile(t, dir, "web.yaml", "basic_auth_users: {prometheus: '$2a$04$1M3psidMXK7wNvJsrMpF5ewe/s6/kmyGHuuGg5CmCFGRoLiGZIhw2'}\n")
	s := daemonOf(t, config{tenant: tenant}.write(t), "--web.config.file", web)
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	for _, c := range []struct {
		path, password string
		want           int
	}{
		{"/", "", http.StatusUnauthorized},
		{"/metrics", "", http.StatusUnauthorized},
		{"/metrics", "wrong", http.StatusUnauthorized},
		{"/metrics", "right", http.StatusOK},
		{"/api/v1/offenders", "", http.StatusUnauthorized},
		{"/api/v1/offenders", "right", http.StatusOK},
		{"/-/healthy", "", http.StatusOK},
		{"/-/healthy", "wrong", http.StatusUnauthorized},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.password != "" {
			req.SetBasicAuth("prometheus", c.password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s with password %q: status %d, not %d", c.path, c.password, resp.StatusCode, c.want)
		}
	}
	succeed(t, "check", "--health", s.URL, "--web.config.file", web)
}
