# The KVM probe's guest, a boot sector: timer interrupts in real mode, then four-level paging, 64-bit mode, interrupts
# of the local APIC and some arithmetic, and out with status 33 through isa-debug-exit. It needs no kernel.
	.code16
	.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7c00, %sp
	sti
	movw 0x46c, %bx			# the firmware's tick counter, 18 a second
	addw $2, %bx
1:	hlt
	cmpw %bx, 0x46c
	js 1b
	cli
	movb $0xff, %al			# the old interrupt controllers stay out of it
	outb %al, $0x21
	outb %al, $0xa1

	movw $0x1000, %ax		# page tables from 0x10000: the first 4 GiB, in pages of 2 MiB
	movw %ax, %es
	xorw %di, %di
	xorw %ax, %ax
	movw $0x3000, %cx
	rep stosw
	movl $0x11003, %es:0
	movl $0x12003, %es:0x1000
	movl $0x13003, %es:0x1008
	movl $0x14003, %es:0x1010
	movl $0x15003, %es:0x1018
	movw $0x2000, %di
	movl $0x83, %eax
2:	movl %eax, %es:(%di)
	addw $8, %di
	addl $0x200000, %eax
	jnc 2b

	lgdt gdt_pointer
	movl %cr4, %eax
	orl $0x20, %eax			# PAE
	movl %eax, %cr4
	movl $0x10000, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx		# EFER
	rdmsr
	orl $0x100, %eax		# LME
	wrmsr
	movl %cr0, %eax
	orl $0x80000001, %eax		# PG, PE
	movl %eax, %cr0
	ljmp $8, $long_mode

	.code64
long_mode:
	movl $16, %eax
	movl %eax, %ss
	movl $0x7c00, %esp
	movl $0x8000, %edi		# interrupt table; only vector 0x40 is filled
	movl $(8 << 16) + 0x7c00, %eax
	addl $(tick - _start), %eax
	movl %eax, 0x400(%rdi)
	movl $0x8e00, 0x404(%rdi)
	movq $0, 0x408(%rdi)
	lidt idt_pointer
	movl $0xfee00000, %ebx
	movl $0x1ff, 0xf0(%rbx)		# APIC on
	movl $0xb, 0x3e0(%rbx)		# its clock undivided
	movl $0x20040, 0x320(%rbx)	# periodic, vector 0x40
	movl $2000000, 0x380(%rbx)
	sti
3:	hlt
	cmpl $20, ticks
	jb 3b
	cli
	movl $20000000, %ecx
4:	decl %ecx
	jnz 4b
	movb $16, %al			# status 2 * 16 + 1
	outb %al, $0xf4
5:	hlt
	jmp 5b
tick:
	incl ticks
	movl $0, 0xb0(%rbx)		# end of interrupt
	iretq

	.balign 8
gdt:	.quad 0, 0x00209a0000000000, 0x0000920000000000
gdt_pointer:
	.word 23
	.long gdt
idt_pointer:
	.word 0xfff
	.quad 0x8000
ticks:	.long 0
	.org 510
	.word 0xaa55
