#include <module.h>
int alpha_call(void);
int beta_call(void);
int beta_call(void)
{
	return alpha_call();
}
EXPORT_SYMBOL(beta_call);
MODULE_LICENSE("GPL");
