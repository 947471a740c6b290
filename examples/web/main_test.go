package main

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	t.Setenv("POD_NAME", "web-1")
	t.Setenv("NODE_NAME", "node-<1>")
	s := &server{message: "Hi & welcome", started: time.Now()}
	h := s.handler()

	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Pod != "web-1" || a.Node != "node-<1>" || a.Requests != 1 || a.Message != "Hi & welcome" {
		t.Errorf("got %+v", a)
	}

	browser := httptest.NewRequest("GET", "/", nil)
	browser.Header.Set("Accept", "text/html,application/xhtml+xml")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, browser)
	body := w.Body.String()
	for _, want := range []string{"<h1>Hi &amp; welcome</h1>", "node-&lt;1&gt;", "<dd>2</dd>"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/absent", nil))
	if w.Code != 404 {
		t.Errorf("/absent: %d", w.Code)
	}
}

func TestNotReadyOnceItEnds(t *testing.T) {
	s := &server{}
	for _, leaving := range []bool{false, true} {
		s.leaving.Store(leaving)
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		if ready := w.Code == 200; ready == leaving {
			t.Errorf("leaving %v: %d", leaving, w.Code)
		}
	}
}
