// Command tools is what the stories' pods call besides busybox.
//
//	tools ask [-n N] URL     prints the bodies of N answers, each on a connection of its own
//	tools load -rate R URL   R requests a second until standard input ends, every other one on a
//	                         connection of its own; prints how many there were and what went wrong
//	tools echo PORT          answers each UDP packet with this host's name and the packet
//	tools send ADDRESS TEXT  sends TEXT by UDP until an answer comes, and prints it
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 1 {
		switch args[0] {
		case "ask":
			return ask(args[1:])
		case "load":
			return load(args[1:])
		case "echo":
			return echo(args[1])
		case "send":
			return send(args[1], args[2])
		}
	}
	return errors.New("usage: tools ask [-n N] URL | load -rate R URL | echo PORT | send ADDRESS TEXT")
}

func ask(args []string) error {
	flags := flag.NewFlagSet("ask", flag.ContinueOnError)
	n := flags.Int("n", 1, "how many requests")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range *n {
		resp, err := client.Get(flags.Arg(0))
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", bytes.TrimSpace(body))
	}
	return nil
}

// report is what load prints.
type report struct {
	Requests int            `json:"requests"`
	Failures map[string]int `json:"failures"`
	Pods     map[string]int `json:"pods"`
}

func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := flags.Int("rate", 100, "requests a second")
	if err := flags.Parse(args); err != nil {
		return err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, os.Stdin)
	}()
	kept := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	fresh := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var mu sync.Mutex
	var group sync.WaitGroup
	out := report{Failures: map[string]int{}, Pods: map[string]int{}}
	began := time.Now()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(*rate)) // one that is late is made up for
		select {
		case <-over:
			group.Wait()
			return json.NewEncoder(os.Stdout).Encode(out)
		case <-time.After(time.Until(due)):
		}
		client := kept
		if i%2 == 0 {
			client = fresh
		}
		group.Go(func() {
			pod, err := request(client, flags.Arg(0))
			mu.Lock()
			defer mu.Unlock()
			out.Requests++
			if err != nil {
				out.Failures[err.Error()]++
				return
			}
			out.Pods[pod]++
		})
	}
}

// request returns the name of the pod that answered.
func request(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var body struct{ Pod string }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return body.Pod, nil
}

func echo(port string) error {
	conn, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for buffer := make([]byte, 1<<16); ; {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(append([]byte(host+" "), buffer[:n]...), from); err != nil {
			return err
		}
	}
}

func send(address, text string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range 20 {
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(250 * time.Millisecond)); err != nil {
			return err
		}
		buffer := make([]byte, 1<<16)
		if n, err := conn.Read(buffer); err == nil {
			fmt.Printf("%s\n", buffer[:n])
			return nil
		}
	}
	return errors.New("no answer")
}
