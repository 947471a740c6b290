package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PauseRepository is the name that nodes know the sandbox image by. Its host exists nowhere: the image comes with the program.
const PauseRepository = "skiff.local/pause"

// Pause makes the sandbox image for one architecture ("" means this machine's): a root file system with nothing but the program below, about 300 bytes
// long. It is the same for every build of Skiff that has the same program, so nodes fetch it once.
func Pause(arch string) (v1.Image, error) {
	o := Options{Architecture: arch, Entrypoint: []string{"/pause"}, User: "65535:65535", Created: time.Unix(0, 0)}
	program, err := PauseProgram(o.arch())
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.addBytes("/pause", program, 0o755)
	return o.assemble(t)
}

// PauseReference names the sandbox image by its content, so that a node with an older one notices.
func PauseReference(img v1.Image) (string, error) {
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("name the sandbox image: %w", err)
	}
	return PauseRepository + ":" + digest.Hex[:12], nil
}

// PauseProgram is the program of the pod sandbox, as a complete ELF file. One runs in every pod, as process 1 where the pod's
// containers share their processes, so all it may cost is one page of code and one of stack: a Go program would cost 1.5 MB and
// five threads. It is this, in machine code:
//
//	set = {SIGINT, SIGTERM, SIGCHLD}
//	rt_sigprocmask(SIG_BLOCK, &set)           // blocked, so that the kernel queues them for process 1 too
//	reap: while wait4(-1, WNOHANG) > 0 {}     // orphans of the pod become our children
//	wait: switch rt_sigtimedwait(&set) {
//	      case SIGCHLD: goto reap
//	      case < 0:     goto wait             // interrupted by a stop and continue
//	      default:      exit(0)
//	}
func PauseProgram(arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return elfFile(elf.EM_X86_64, pauseAMD64), nil
	case "arm64":
		return elfFile(elf.EM_AARCH64, pauseARM64), nil
	}
	return nil, fmt.Errorf("make the sandbox program: there is none for %s, only for amd64 and arm64", arch)
}

// signalSet is {SIGINT, SIGTERM, SIGCHLD} as the kernel's bit set: bit n-1 stands for signal n.
const signalSet = 1<<(2-1) | 1<<(15-1) | 1<<(17-1) // 0x14002

var pauseAMD64 = []byte{
	0x68, signalSet & 0xff, signalSet >> 8 & 0xff, signalSet >> 16, 0x00, // push	signalSet
	0x48, 0x89, 0xe6, //			mov	rsi, rsp	; set
	0x31, 0xff, //				xor	edi, edi	; SIG_BLOCK
	0x31, 0xd2, //				xor	edx, edx	; no old set
	0x6a, 0x08, 0x41, 0x5a, //		push	8; pop r10	; size of a set
	0xb8, 0x0e, 0x00, 0x00, 0x00, //	mov	eax, 14		; rt_sigprocmask
	0x0f, 0x05, //				syscall
	// reap:
	0x6a, 0xff, 0x5f, //			push	-1; pop rdi	; any child
	0x31, 0xf6, //				xor	esi, esi	; status not wanted
	0xba, 0x01, 0x00, 0x00, 0x00, //	mov	edx, 1		; WNOHANG
	0x45, 0x31, 0xd2, //			xor	r10d, r10d	; usage not wanted
	0xb8, 0x3d, 0x00, 0x00, 0x00, //	mov	eax, 61		; wait4
	0x0f, 0x05, //				syscall
	0x85, 0xc0, //				test	eax, eax
	0x7f, 0xe8, //				jg	reap
	// wait:
	0x48, 0x89, 0xe7, //			mov	rdi, rsp	; set
	0x31, 0xf6, //				xor	esi, esi	; info not wanted
	0x31, 0xd2, //				xor	edx, edx	; no timeout
	0x6a, 0x08, 0x41, 0x5a, //		push	8; pop r10	; size of a set
	0xb8, 0x80, 0x00, 0x00, 0x00, //	mov	eax, 128	; rt_sigtimedwait
	0x0f, 0x05, //				syscall
	0x83, 0xf8, 0x11, //			cmp	eax, 17		; SIGCHLD
	0x74, 0xd1, //				je	reap
	0x85, 0xc0, //				test	eax, eax
	0x78, 0xe5, //				js	wait
	0x31, 0xff, //				xor	edi, edi	; success
	0xb8, 0x3c, 0x00, 0x00, 0x00, //	mov	eax, 60		; exit
	0x0f, 0x05, //				syscall
}

var pauseARM64 = words(
	0xd10043ff, //	sub	sp, sp, #16
	0xd2880049, //	mov	x9, #0x4002	; signalSet, low half
	0xf2a00029, //	movk	x9, #1, lsl #16	; high half
	0xf90003e9, //	str	x9, [sp]
	0xd2800000, //	mov	x0, #0		; SIG_BLOCK
	0x910003e1, //	mov	x1, sp		; set
	0xd2800002, //	mov	x2, #0		; no old set
	0xd2800103, //	mov	x3, #8		; size of a set
	0xd28010e8, //	mov	x8, #135	; rt_sigprocmask
	0xd4000001, //	svc	#0
	// reap:
	0x92800000, //	mov	x0, #-1		; any child
	0xd2800001, //	mov	x1, #0		; status not wanted
	0xd2800022, //	mov	x2, #1		; WNOHANG
	0xd2800003, //	mov	x3, #0		; usage not wanted
	0xd2802088, //	mov	x8, #260	; wait4
	0xd4000001, //	svc	#0
	0xf100001f, //	cmp	x0, #0
	0x54ffff2c, //	b.gt	reap
	// wait:
	0x910003e0, //	mov	x0, sp		; set
	0xd2800001, //	mov	x1, #0		; info not wanted
	0xd2800002, //	mov	x2, #0		; no timeout
	0xd2800103, //	mov	x3, #8		; size of a set
	0xd2801128, //	mov	x8, #137	; rt_sigtimedwait
	0xd4000001, //	svc	#0
	0xf100441f, //	cmp	x0, #17		; SIGCHLD
	0x54fffe20, //	b.eq	reap
	0xf100001f, //	cmp	x0, #0
	0x54fffeeb, //	b.lt	wait
	0xd2800000, //	mov	x0, #0		; success
	0xd2800ba8, //	mov	x8, #93		; exit
	0xd4000001, //	svc	#0
)

func words(code ...uint32) []byte {
	var b []byte
	for _, w := range code {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// elfFile wraps code into a static executable: the file header, one segment that is the whole file, and the note that the stack is
// not executable.
func elfFile(machine elf.Machine, code []byte) []byte {
	const base, headers = 0x400000, 64 + 2*56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) } // a bytes.Buffer takes every write
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	})
	put(elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000,
	})
	put(elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16})
	return append(b.Bytes(), code...)
}
