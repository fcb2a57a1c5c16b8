/* SPDX-License-Identifier: GPL-2.0 */
#define EXPORT_SYMBOL(sym)                                                                                       \
	static const char __kstrtab_##sym[] __attribute__((used, section("__ksymtab_strings"), aligned(1))) = #sym; \
	const void *const __ksymtab_##sym __attribute__((used)) = (const void *)&sym
#define MODULE_LICENSE(text) \
	static const char license[] __attribute__((used, section(".modinfo"), aligned(1))) = "license=" text
