// Command tools is what the stories' pods call besides busybox.
//
//	tools ask [-n N] URL     prints the bodies of N answers, each on a connection of its own
//	tools echo PORT          answers each UDP packet with this host's name and the packet
//	tools send ADDRESS TEXT  sends TEXT by UDP until an answer comes, and prints it
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
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
		case "echo":
			return echo(args[1])
		case "send":
			return send(args[1], args[2])
		}
	}
	return errors.New("usage: tools ask [-n N] URL | echo PORT | send ADDRESS TEXT")
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
