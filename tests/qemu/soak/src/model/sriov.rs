// SPDX-License-Identifier: GPL-2.0
//! Virtual functions: the driver makes them through their physical function, and takes them.

use super::{Expect, Model};
use crate::machine::{spec, virtual_functions, Func};
use crate::op::Via;

impl Model {
    /// Whether a function is on the bus.
    pub fn is_there(&self, func: Func) -> bool {
        spec(func).physical.is_none_or(|physical| self.func(physical).virtual_functions)
    }

    /// Whether a virtual function of a function is open.
    fn has_open_virtual_function(&self, func: Func) -> bool {
        virtual_functions(func).any(|of| self.func(of).open)
    }

    /// Whether the processes have a way to pass the token that opening a function may need. There
    /// is none through the character device.
    pub(super) fn has_token_for(&self, func: Func, via: Via) -> bool {
        let needs_token = spec(func).physical.is_some() || self.has_open_virtual_function(func);
        via == Via::Group || !needs_token
    }

    /// Whether the token of a virtual function is unknown.
    pub fn wants_token(&self, func: Func) -> bool {
        spec(func).physical.is_some_and(|physical| !self.func(physical).token)
    }

    pub(super) fn set_virtual_functions(&mut self, func: Func, on: bool) -> Option<Expect> {
        let can = virtual_functions(func).next().is_some();
        let state = self.func(func);
        if !can || !state.bound || state.virtual_functions == on {
            return None;
        }
        // Taking them away would wait until they are closed.
        if (state.low_power && !state.dozes) || self.has_open_virtual_function(func) {
            return None;
        }
        self.wake(func);
        let state = self.func_mut(func);
        state.virtual_functions = on;
        // The core raises it first.
        state.d3 &= !on;
        for of in virtual_functions(func) {
            let state = self.func_mut(of);
            state.bound = on;
            state.binding += u32::from(on);
        }
        Expect::ok()
    }
}
